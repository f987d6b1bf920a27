//! kill -9 at random moments under load, then a start: what was acknowledged is there, nothing else is.
//!
//! Three workers prepare, write, commit, view and remove snapshots of their own. Before each call a worker writes down
//! which states its key may be in if the daemon dies now, after the answer which state it is in. After each kill
//! the daemon is started again and every key is compared with what was written down.

mod adopt;
mod book;
mod faults;
mod points;
mod power;
mod replay;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use thinfs::grpc::proto::thinfs::admin::v1 as admin;

use crate::harness::{Client, Daemon, is_thin, random};
use book::{Book, Known, State};

/// Many in CI on native, fewer in the slow guest.
fn kills() -> usize {
    random::times() as usize * if is_thin() { 100 } else { 200 }
}

#[test]
fn a_kill_at_any_moment_loses_nothing_acknowledged_and_leaks_nothing() {
    let mut random = fastrand::Rng::with_seed(random::seed());
    let mut d = Daemon::start();
    let book = Book::default();
    let mut calls = 0;
    let started = Instant::now();
    for kill in 0..kills() {
        calls += run_until_killed(&mut d, &book, &mut random);
        eprintln!("kill {kill} at {:?}", started.elapsed());
        let mut client = Client::connect(&d.socket());
        settle(&d, &mut client, &book, kill);
        prune(&mut client, &book);
    }
    eprintln!("{} kills, {calls} acknowledged calls", kills());
    assert!(calls > kills(), "the workers did too little for the kills to mean anything");
    let mut client = Client::connect(&d.socket());
    let reply = client.gc();
    assert_eq!((reply.waiting, reply.failed), (0, vec![]));
    assert_eq!(client.check(), [""; 0]);
    assert_eq!(
        volumes_on_disk(&d),
        book.lock().unwrap().values().filter(|k| owns_volume(k)).count()
    );
    d.finish();
}

fn owns_volume(known: &Known) -> bool {
    known.states.iter().any(|s| matches!(s, State::Active | State::Committed))
        || (known.states.contains(&State::View) && known.chain.is_empty())
}

/// Directories of volumes on native; on thin, `check` has compared the pool's thin ids already.
fn volumes_on_disk(d: &Daemon) -> usize {
    if is_thin() {
        let mut client = Client::connect(&d.socket());
        return client
            .list()
            .iter()
            .filter(|s| s.kind() != admin::Kind::View || s.parent.is_empty())
            .count();
    }
    fs::read_dir(d.root().join("native/volumes")).unwrap().count()
}

/// Lets the workers get a random number of calls acknowledged and a random moment more, kills the daemon under them, starts
/// the next one (a worker may hang in the dead one's mount until then), and answers how many calls were acknowledged.
fn run_until_killed(d: &mut Daemon, book: &Book, random: &mut fastrand::Rng) -> usize {
    let (enough, then) = (random.usize(0..12), Duration::from_micros(random.u64(0..4_000)));
    let (calls, killed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (socket, mount) = (d.socket(), d.mount());
    std::thread::scope(|scope| {
        for n in 0..3 {
            let random = fastrand::Rng::with_seed(random.u64(..));
            let worker = Worker {
                name: format!("w{n}"),
                random,
                book,
                mount: mount.clone(),
                killed: &killed,
                calls: &calls,
            };
            let client = Client::connect(&socket);
            scope.spawn(move || worker.run(client));
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while calls.load(Relaxed) < enough && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(then);
        killed.store(true, Relaxed);
        d.kill();
        d.restart();
    });
    calls.into_inner()
}

struct Worker<'a> {
    name: String,
    random: fastrand::Rng,
    book: &'a Book,
    mount: PathBuf,
    /// No call begins any more: the client would find its way to the next daemon.
    killed: &'a AtomicBool,
    calls: &'a AtomicUsize,
}

impl Worker<'_> {
    /// Works until a call fails because the daemon is gone.
    fn run(mut self, mut client: Client) {
        while !self.killed.load(Relaxed) && self.step(&mut client).is_some() {}
    }

    fn step(&mut self, client: &mut Client) -> Option<()> {
        match self.random.u8(0..10) {
            0..=5 => self.prepare_write_commit(client),
            6 => self.leave_active(client),
            7 => self.look(client),
            _ => self.remove(client),
        }
    }

    fn fresh(&mut self) -> String {
        format!("{}/{:016x}", self.name, self.random.u64(..))
    }

    fn mine(&mut self, state: State) -> Option<(String, Known)> {
        let book = self.book.lock().unwrap();
        let mine: Vec<_> = book
            .iter()
            .filter(|(key, known)| key.starts_with(&self.name) && known.states == [state])
            .collect();
        let (key, known) = mine.get(self.random.usize(0..mine.len().max(1)))?;
        Some(((*key).clone(), (*known).clone()))
    }

    fn note(&self, key: &str, states: &[State], chain: &[String]) {
        self.book.note(key, states, chain);
    }

    /// Runs one call between the notes of what may be and what is.
    fn call<T>(
        &mut self,
        key: &str,
        from: State,
        to: State,
        chain: &[String],
        call: impl FnOnce() -> Result<T, tonic::Code>,
    ) -> Option<T> {
        self.note(key, &[from, to], chain);
        match call() {
            Ok(value) => {
                self.note(key, &[to], chain);
                self.calls.fetch_add(1, Relaxed);
                Some(value)
            }
            Err(tonic::Code::FailedPrecondition) => {
                self.note(key, &[from], chain);
                None
            }
            Err(_) => None,
        }
    }

    fn start(&mut self, client: &mut Client) -> Option<(String, Vec<String>)> {
        let key = self.fresh();
        let chain = match self.mine(State::Committed) {
            Some((parent, known)) if self.random.bool() => [vec![parent], known.chain].concat(),
            _ => Vec::new(),
        };
        let parent = chain.first().cloned().unwrap_or_default();
        self.call(&key, State::Absent, State::Active, &chain, || client.prepare(&key, &parent))?;
        Some((key, chain))
    }

    fn prepare_write_commit(&mut self, client: &mut Client) -> Option<()> {
        let (key, chain) = self.start(client)?;
        let name = self.fresh();
        let dir = self.mount.join("active").join(key.replace('/', "%2F"));
        fs::write(dir.join(file_of(&name)), content_of(&name)).ok()?;
        self.note(&name, &[State::Absent, State::Committed], &chain);
        let done =
            self.call(&key, State::Active, State::Absent, &chain, || client.commit(&key, &name));
        if done.is_some() {
            self.note(&name, &[State::Committed], &chain);
        }
        done.map(drop)
    }

    fn leave_active(&mut self, client: &mut Client) -> Option<()> {
        let (key, _) = self.start(client)?;
        let dir = self.mount.join("active").join(key.replace('/', "%2F"));
        fs::write(dir.join("unfinished"), vec![1u8; 10_000]).ok()
    }

    fn look(&mut self, client: &mut Client) -> Option<()> {
        let Some((parent, known)) = self.mine(State::Committed) else { return Some(()) };
        let key = self.fresh();
        let chain = [vec![parent.clone()], known.chain].concat();
        self.call(&key, State::Absent, State::View, &chain, || client.view(&key, &parent)).map(drop)
    }

    fn remove(&mut self, client: &mut Client) -> Option<()> {
        let state = [State::Active, State::View, State::Committed][self.random.usize(0..3)];
        let Some((key, known)) = self.mine(state) else { return Some(()) };
        if self
            .book
            .lock()
            .unwrap()
            .values()
            .any(|other| other.chain.contains(&key) && other.states != [State::Absent])
        {
            return Some(());
        }
        self.call(&key, state, State::Absent, &known.chain, || client.remove(&key)).map(drop)
    }
}

fn file_of(name: &str) -> String {
    name.replace('/', "-")
}

fn content_of(name: &str) -> String {
    name.repeat(700)
}

/// Compares the restarted daemon with the book, and closes every open question in it.
fn settle(d: &Daemon, client: &mut Client, book: &Book, kill: usize) {
    let real: BTreeMap<String, State> =
        client.list().into_iter().map(|s| (s.key.clone(), state_of(&s))).collect();
    let mut book = book.lock().unwrap();
    for key in real.keys() {
        assert!(book.contains_key(key), "kill {kill}: nobody asked for {key}");
    }
    for (key, known) in book.iter_mut() {
        let state = real.get(key).copied().unwrap_or(State::Absent);
        assert!(
            known.states.contains(&state),
            "kill {kill}: {key} is {state:?}, expected one of {:?}\n{}",
            known.states,
            d.log()
        );
        known.states = vec![state];
        if state == State::Committed {
            assert_content(d, key, &known.chain, kill);
        }
    }
    book.retain(|_, known| known.states != [State::Absent]);
    assert_eq!(client.check(), [""; 0], "kill {kill}");
}

fn assert_content(d: &Daemon, name: &str, chain: &[String], kill: usize) {
    let dir = d.committed(&name.replace('/', "%2F"));
    for layer in std::iter::once(name).chain(chain.iter().map(String::as_str)) {
        let text = fs::read_to_string(dir.join(file_of(layer)))
            .unwrap_or_else(|e| panic!("kill {kill}: {layer} in {name}: {e}"));
        assert_eq!(text, content_of(layer), "kill {kill}: {layer} in {name}");
    }
    assert_eq!(
        fs::read_dir(&dir).unwrap().count(),
        chain.len() + 1,
        "kill {kill}: files of {name}"
    );
}

fn state_of(snapshot: &admin::Snapshot) -> State {
    match snapshot.kind() {
        admin::Kind::Active => State::Active,
        admin::Kind::View => State::View,
        admin::Kind::Committed => State::Committed,
        admin::Kind::Unspecified => panic!("a snapshot of no kind"),
    }
}

/// Keeps the store small, so that each round spends its time in calls, not in comparisons.
fn prune(client: &mut Client, book: &Book) {
    let mut book = book.lock().unwrap();
    while book.len() > 40 {
        let leaf = book
            .iter()
            .find(|(key, _)| !book.values().any(|other| other.chain.contains(*key)))
            .map(|(key, _)| key.clone());
        let leaf = leaf.expect("a forest has leaves");
        client.remove(&leaf).unwrap_or_else(|code| panic!("remove {leaf}: {code:?}"));
        book.remove(&leaf);
    }
}
