//! Many threads at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::faulty::Faults;
use super::fixture::{Code, Fixture, Scene, code, write};
use crate::types::Kind;
use crate::volume;

/// Lets nobody through until enough are there.
#[derive(Default)]
struct Meeting {
    there: Mutex<usize>,
    came: Condvar,
}

impl Meeting {
    fn wait_for(&self, wanted: usize) -> volume::Result<()> {
        let mut there = self.there.lock();
        *there += 1;
        self.came.notify_all();
        while *there < wanted {
            let late = self.came.wait_for(&mut there, Duration::from_secs(30)).timed_out();
            assert!(!late, "only {} of {wanted} came", *there);
        }
        Ok(())
    }

    fn wait_until_there(&self, wanted: usize) {
        let mut there = self.there.lock();
        while *there < wanted {
            assert!(!self.came.wait_for(&mut there, Duration::from_secs(30)).timed_out());
        }
    }

    fn let_all_go(&self) {
        *self.there.lock() += 1_000_000;
        self.came.notify_all();
    }
}

/// Each waits inside the backend until all are inside: one after the other would never end.
#[test]
fn a_hundred_prepares_on_one_parent_run_at_the_same_time() {
    let faults = Faults::default();
    let fixture = faults.fixture();
    let scene = fixture.scene("default");
    scene.layer("base", "", "file");
    let meeting = Arc::new(Meeting::default());
    faults.before_create(move |_| meeting.wait_for(100));
    std::thread::scope(|scope| {
        for at in 0..100 {
            let scene = scene.clone();
            scope.spawn(move || scene.prepare(&format!("k{at}"), "base").unwrap());
        }
    });
    faults.clear();
    assert_eq!(scene.walk(&["parent==base"]).unwrap().len(), 100);
    fixture.assert_sound();
}

#[test]
fn while_a_prepare_copies_nothing_else_waits_for_it() {
    let faults = Faults::default();
    let fixture = faults.fixture();
    let scene = fixture.scene("default");
    scene.layer("base", "", "file");
    let meeting = Arc::new(Meeting::default());
    {
        let meeting = meeting.clone();
        let slow = std::sync::atomic::AtomicBool::new(true);
        faults.before_create(move |_| {
            match slow.swap(false, std::sync::atomic::Ordering::Relaxed) {
                true => meeting.wait_for(1000),
                false => Ok(()),
            }
        });
    }
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| scene.prepare("slow", "base").unwrap());
        meeting.wait_until_there(1);
        let started = Instant::now();
        assert_eq!(code(&scene.stat("slow").unwrap_err()), Code::NotFound);
        scene.usage("base").unwrap();
        assert_eq!(scene.walk(&[]).unwrap(), ["base"]);
        scene.prepare("quick", "base").unwrap();
        scene.view("view", "base").unwrap();
        scene.remove("view").unwrap();
        scene.commit("committed", "quick").unwrap();
        scene.remove("committed").unwrap();
        // The parent can't go; a collector must not be kept waiting for a copy to hear that.
        for name in ["base", "slow"] {
            assert_eq!(code(&scene.remove(name).unwrap_err()), Code::FailedPrecondition);
        }
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(!copying.is_finished());
        meeting.let_all_go();
    });
    assert_eq!(scene.files("slow"), BTreeSet::from(["file".to_owned()]));
    fixture.assert_sound();
}

#[test]
fn of_many_that_want_one_key_exactly_one_gets_it() {
    let fixture = Fixture::native();
    let scene = fixture.scene("default");
    for round in 0..20 {
        let name = format!("k{round}");
        let won = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|at| {
                    let (scene, name) = (scene.clone(), &name);
                    scope.spawn(move || {
                        match if at % 2 == 0 {
                            scene.prepare(name, "")
                        } else {
                            scene.view(name, "")
                        } {
                            Ok(_) => true,
                            Err(error) => {
                                assert_eq!(code(&error), Code::AlreadyExists, "{error}");
                                false
                            }
                        }
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(won, 1);
    }
    fixture.assert_sound();
}

/// What a writer was told is written is in the committed snapshot, and nothing is that comes later.
#[test]
fn a_commit_draws_the_line_between_writes_before_and_after_it() {
    let fixture = Fixture::native();
    let scene = fixture.scene("default");
    for round in 0..15 {
        let (active, committed) = (format!("a{round}"), format!("c{round}"));
        let info = scene.prepare(&active, "").unwrap();
        let written = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3)
                .map(|writer| {
                    let (scene, info) = (scene.clone(), &info);
                    scope.spawn(move || write_until_committed(&scene, info, writer))
                })
                .collect();
            while scene.files(&active).len() < 5 {
                std::thread::yield_now();
            }
            scene.commit(&committed, &active).unwrap();
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<BTreeSet<_>>()
        });
        assert_eq!(scene.files(&committed), written);
    }
    fixture.assert_sound();
}

/// Opens anew for each file, so that activations race with the commit too.
fn write_until_committed(
    scene: &Scene<'_>,
    info: &crate::snapshot::Info,
    writer: usize,
) -> BTreeSet<String> {
    let mut written = BTreeSet::new();
    for at in 0.. {
        let name = format!("{writer}-{at}");
        match write(&scene.open(info), &name, "x") {
            Ok(()) => written.insert(name),
            Err(volume::Error::ReadOnly(_)) => break,
            Err(error) => panic!("{error}"),
        };
    }
    written
}

/// A generator of numbers that a failed run can be repeated with.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// One random operation on few keys; what the rules forbid at that moment is no failure.
fn random_operation(scene: &Scene<'_>, random: &mut Random) {
    let name = |random: &mut Random| format!("k{}", random.below(8));
    let (one, two) = (name(random), name(random));
    let parent = if random.below(3) == 0 { String::new() } else { two.clone() };
    let result = match random.below(8) {
        0..=2 => scene.prepare(&one, &parent).map(drop),
        3 => scene.view(&one, &parent).map(drop),
        4 => scene.commit(&one, &two).map(drop),
        5 => scene.rebase(&one, &two, &name(random)).map(drop),
        6 => scene.merge_labels(&one, &[("l", &two)]).map(drop),
        _ => scene.remove(&one),
    };
    if let Err(error) = result {
        assert_ne!(code(&error), Code::Unavailable, "{error:?}");
    }
}

#[test]
fn eight_threads_of_random_operations_leave_every_invariant_intact() {
    let mut fixture = Fixture::native();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let scene = fixture.scene(if thread % 4 == 3 { "other" } else { "default" });
            scope.spawn(move || {
                let mut random = Random(thread);
                (0..120).for_each(|_| random_operation(&scene, &mut random));
            });
        }
    });
    fixture.assert_sound();
    let recovery = fixture.restart();
    assert_eq!((recovery.reaped, recovery.lost, recovery.unnamed), (0, vec![], vec![]));
    let scene = fixture.scene("default");
    for kind in Kind::ALL {
        assert_eq!(scene.page(kind), scene.walk(&[&format!("kind=={kind}")]).unwrap());
    }
    fixture.assert_sound();
}
