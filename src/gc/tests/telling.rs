//! What readers of events are told of leases, namespaces and collections.

use std::time::{Duration, SystemTime};

use super::*;
use crate::meta::WriteFault;
use crate::snapshot::LabelUpdate;

/// Topic, namespace and key of each event after this number.
fn told(yard: &Yard, after: u64) -> Vec<(String, String, String)> {
    let events = yard.fixture.store().events_after(after, 1000).unwrap();
    let parts = |event: crate::types::Event| {
        let ns = event.namespace.map(|ns| ns.to_string()).unwrap_or_default();
        (event.topic.to_string(), ns, event.key)
    };
    events.into_iter().map(|event| parts(event.event)).collect()
}

fn as_text(told: &[(String, String, String)]) -> Vec<String> {
    told.iter().map(|(topic, ns, key)| format!("{topic} {ns} {key}")).collect()
}

#[test]
fn leases_namespaces_and_collections_tell_in_order_what_they_name() {
    let yard = Yard::new();
    let ci = ns("ci");
    yard.collector.create_namespace(&ci, Labels::new()).unwrap();
    let stage = || LabelUpdate::Merge(pairs(&[("stage", "1")]));
    yard.collector.label_namespace(&ci, stage()).unwrap();
    yard.collector.delete_namespace(&ci).unwrap();
    let lease = yard.lease("l", &[]);
    let later = SystemTime::now() + Duration::from_secs(3600);
    let here = ns("default");
    // A renewal alone is nothing that anybody wants to know.
    yard.collector.label_lease(&here, &lease, LabelUpdate::Merge(expiring(later))).unwrap();
    yard.collector.label_lease(&here, &lease, stage()).unwrap();
    yard.prepare("k", "", &lease, &[]);
    yard.end(&lease);
    assert_eq!(yard.collect(), ["k"]);
    assert_eq!(yard.collect(), [""; 0], "a run that removes nothing is none to tell of");
    let short = yard.lease("short", &[]);
    let past = expiring(SystemTime::now() - Duration::from_secs(1));
    yard.collector.label_lease(&here, &short, LabelUpdate::Merge(past)).unwrap();
    assert_eq!(yard.collect(), [""; 0]);
    let all = told(&yard, 0);
    let expected = [
        "/namespace/create ci ",
        "/namespace/update ci ",
        "/namespace/delete ci ",
        "/lease/create default l",
        "/lease/update default l",
        "/snapshot/prepare default k",
        "/lease/delete default l",
        "/snapshot/remove default k",
        "/gc/done  ",
        "/lease/create default short",
        "/lease/expire default short",
    ];
    assert_eq!(as_text(&all), expected);
    let events = yard.fixture.store().events_after(0, 1000).unwrap();
    let updated = &events[4].event;
    assert!(updated.details["expires"].starts_with("20"), "{updated:?}");
    let done = &events[8].event;
    assert_eq!((&*done.details["snapshot"], &*done.details["stayed"]), ("1", "0"), "{done:?}");
}

/// Neither of a lease that was refused, nor of one whose batch failed.
#[test]
fn what_did_not_become_durable_is_not_told() {
    let mut yard = Yard::new();
    let here = ns("default");
    yard.lease("l", &[]);
    let told_before = told(&yard, 0);
    yard.collector.create_lease(&here, Some(lease_id("l")), Labels::new()).unwrap_err();
    yard.collector.delete_lease(&here, &lease_id("absent")).unwrap_err();
    yard.fixture.store().fail_next_write(WriteFault::Before);
    yard.collector.delete_lease(&here, &lease_id("l")).unwrap_err();
    assert_eq!(told(&yard, 0), told_before);
    drop(yard.collector);
    yard.fixture.crash();
    yard.collector = collector_of(&yard.fixture);
    assert_eq!(told(&yard, 0), told_before);
    yard.end(&lease_id("l"));
    assert_eq!(as_text(&told(&yard, 1)), ["/lease/delete default l"]);
}
