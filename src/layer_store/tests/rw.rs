//! Read-write layers: options, failures, many at once.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Instant;

use super::*;
use crate::layer_store::{CreateRw, Error};
use crate::meta::WriteFault;

#[test]
fn options_and_labels_are_kept_over_a_restart_and_unknown_ones_refused() {
    let mut rig = Rig::native();
    let storage = BTreeMap::from([("size".to_owned(), "30000000".to_owned())]);
    let mount_label = "system_u:object_r:container_file_t:s0:c1,c2".to_owned();
    let create = CreateRw { mount_label, storage, ..Default::default() };
    let made = rig.layers().create_rw(&name("web"), create).unwrap();
    rig.restart();
    assert_eq!(rig.layers().rw(&name("web")).unwrap(), made);
    assert_eq!(rig.layers().rw_layers().unwrap(), [made]);
    for (option, value) in [("siez", "1"), ("size", "much")] {
        let storage = BTreeMap::from([(option.to_owned(), value.to_owned())]);
        let create = CreateRw { storage, ..Default::default() };
        rig.layers().create_rw(&name("other"), create).unwrap_err();
    }
    assert_eq!(rig.layers().rw_layers().unwrap().len(), 1);
    rig.assert_sound();
}

#[test]
fn an_init_that_fails_leaves_nothing_and_the_name_free() {
    let rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let mut fail = |_: BorrowedFd<'_>| Err(Error::InvalidArgument("init".to_owned()));
    let create = CreateRw { parent: Some(base), init: Some(&mut fail), ..Default::default() };
    let error = rig.layers().create_rw(&name("web"), create).unwrap_err();
    assert_eq!(error.to_string(), "init");
    rig.assert_sound();
    let mut fine = |_: BorrowedFd<'_>| Ok(());
    let create = CreateRw { parent: Some(base), init: Some(&mut fine), ..Default::default() };
    rig.layers().create_rw(&name("web"), create).unwrap();
    rig.layers().release_rw(&name("web")).unwrap();
    assert_eq!(rig.release(&base), [base]);
    rig.assert_sound();
}

#[test]
fn a_release_that_fails_takes_its_reference_back() {
    let mut rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let create = CreateRw { parent: Some(base), ..Default::default() };
    let made = rig.layers().create_rw(&name("web"), create).unwrap();
    rig.fixture.store().fail_next_write(WriteFault::Before);
    rig.layers().release_rw(&name("web")).unwrap_err();
    assert_eq!(rig.layers().rw(&name("web")).unwrap(), made);
    // The store takes no more writes until it is opened anew.
    rig.crash();
    assert_eq!(rig.layers().rw(&name("web")).unwrap(), made);
    assert_eq!(rig.layers().layer(&base).unwrap().holders.len(), 2);
    rig.layers().release_rw(&name("web")).unwrap();
    assert_eq!(rig.release(&base), [base]);
    rig.assert_sound();
}

/// If the base were held while the init layer is unpacked, this would wait for ever.
#[test]
fn while_an_init_layer_is_unpacked_its_base_and_its_name_are_free() {
    let rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let layers = rig.layers();
    let (mut first, mut others) = (None, Vec::new());
    let mut slow = |_: BorrowedFd<'_>| {
        layers.get(&base)?;
        // Nobody but what is being made needs it now.
        others.extend([rig.release(&base), rig.release(&base)]);
        let create = CreateRw { parent: Some(base), ..Default::default() };
        first = Some(layers.create_rw(&name("web"), create)?);
        Ok(())
    };
    let create = CreateRw { parent: Some(base), init: Some(&mut slow), ..Default::default() };
    let error = layers.create_rw(&name("web"), create).unwrap_err();
    assert!(matches!(error, Error::RwExists(_)), "{error}");
    assert_eq!(others, [[], []]);
    assert_eq!(layers.rw(&name("web")).unwrap(), first.unwrap());
    assert_eq!(layers.layer(&base).unwrap().holders.len(), 1, "nothing of the second is left");
    rig.assert_sound();

    let mut last = |_: BorrowedFd<'_>| {
        assert_eq!(layers.release_rw(&name("web"))?, [], "the import holds its base");
        Ok(())
    };
    let create = CreateRw { parent: Some(base), init: Some(&mut last), ..Default::default() };
    layers.create_rw(&name("other"), create).unwrap();
    assert_eq!(layers.layer(&base).unwrap().holders.len(), 1);
    assert_eq!(layers.release_rw(&name("other")).unwrap().len(), 1);
    assert_eq!(rig.chains(), []);
    rig.assert_sound();
}

#[test]
fn an_init_that_is_cancelled_ends_and_takes_its_base_with_it_if_nobody_else_holds_it() {
    let rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let (layers, cancel) = (rig.layers(), AtomicBool::new(false));
    let mut init = |root: BorrowedFd<'_>| {
        rig.release(&base);
        cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        layers.unpack_into(root, &tar(&[("b", b"b")])[..], &cancel)
    };
    let create = CreateRw { parent: Some(base), init: Some(&mut init), ..Default::default() };
    let error = layers.create_rw(&name("web"), create).unwrap_err();
    assert!(matches!(error, Error::Layer(crate::layer::Error::Cancelled)), "{error}");
    assert_eq!(rig.chains(), []);
    rig.assert_sound();
}

/// Makes and releases `count` read-write layers on one layer by so many threads; says how many a
/// second, in either half.
pub(super) fn many(rig: &Rig, count: usize, threads: usize) -> [f64; 2] {
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let layers = rig.layers();
    let all = |work: &(dyn Fn(&GivenName) + Sync)| {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    (thread..count).step_by(threads).for_each(|n| work(&name(&format!("rw{n}"))));
                });
            }
        });
        count as f64 / started.elapsed().as_secs_f64()
    };
    let made = all(&|name| {
        let create = CreateRw { parent: Some(base), ..Default::default() };
        layers.create_rw(name, create).unwrap();
    });
    assert_eq!(rig.layers().layer(&base).unwrap().holders.len(), count + 1);
    assert_eq!(rig.release(&base), []);
    let released = all(&|name| {
        layers.release_rw(name).unwrap();
    });
    assert_eq!(rig.chains(), [], "the last one took the layer with it");
    rig.assert_sound();
    [made, released]
}

#[test]
fn a_thousand_are_made_and_released_in_parallel() {
    let rig = Rig::native();
    let [made_alone, released_alone] = many(&rig, 200, 1);
    let [made, released] = many(&rig, 1000, 32);
    println!(
        "read-write layers on one layer, a second: made {made:.0} by 32 threads, {made_alone:.0} by one; \
         released {released:.0} by 32, {released_alone:.0} by one"
    );
}

/// If creations and releases went through one queue, this would wait for ever.
#[test]
fn one_that_takes_its_time_holds_up_no_other() {
    let rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let layers = rig.layers();
    let (begun, has_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let slow = scope.spawn(move || {
            let mut init = |_: BorrowedFd<'_>| {
                begun.send(()).unwrap();
                may_go_on.recv().unwrap();
                Ok(())
            };
            let create =
                CreateRw { parent: Some(base), init: Some(&mut init), ..Default::default() };
            layers.create_rw(&name("slow"), create).unwrap();
        });
        // Dropped when something here fails, so that the other ends too.
        let go_on = go_on;
        has_begun.recv().unwrap();
        for _ in 0..3 {
            let create = CreateRw { parent: Some(base), ..Default::default() };
            layers.create_rw(&name("other"), create).unwrap();
            layers.release_rw(&name("other")).unwrap();
        }
        assert!(!slow.is_finished());
        go_on.send(()).unwrap();
    });
    layers.release_rw(&name("slow")).unwrap();
    assert_eq!(rig.release(&base), [base]);
    rig.assert_sound();
}
