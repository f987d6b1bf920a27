//! The stream of events: pages from the store, fetched as fast as the client reads them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost_types::Timestamp;
use tonic::{Code, Status};

use super::call::Batches;
use super::proto::thinfs::admin::v1::EventItem;
use super::proto::thinfs::admin::v1::{Event, EventsReply, EventsRequest, Gone, event_item};
use super::{Context, status};
use crate::events::{Error, Item, Reader};

/// How long a wait for events goes on before it is seen that the client has gone.
const LOOK_UP: Duration = Duration::from_millis(500);

/// Sends events until the client goes away or the daemon stops; with `no_wait`, those that there
/// are.
pub(super) fn follow(
    context: &Context,
    request: EventsRequest,
    batches: &mut Batches<EventItem, EventsReply>,
    cancel: &AtomicBool,
) -> Result<(), Status> {
    let store = Arc::clone(context.snapshots.store());
    let mut reader = Reader::new(store, request.since).map_err(refused)?;
    while !cancel.load(Ordering::Relaxed) {
        let items = reader.read().map_err(refused)?;
        if items.is_empty() {
            if request.no_wait {
                return Ok(());
            }
            reader.wait(LOOK_UP).map_err(refused)?;
        }
        for item in items {
            if batches.push(encode(item)).is_break() {
                return Ok(());
            }
        }
        if batches.flush().is_break() {
            return Ok(());
        }
    }
    Ok(())
}

fn encode(item: Item) -> EventItem {
    let item = match item {
        Item::Gone { from, to } => event_item::Item::Gone(Gone { from, to }),
        Item::Event(published) => event_item::Item::Event(Event {
            sequence: published.sequence,
            topic: published.event.topic.as_str().to_owned(),
            namespace: published
                .event
                .namespace
                .map(|ns| ns.as_str().to_owned())
                .unwrap_or_default(),
            key: published.event.key,
            details: published.event.details,
            at: Some(Timestamp::from(published.event.at)),
        }),
    };
    EventItem { item: Some(item) }
}

fn refused(error: Error) -> Status {
    match error {
        Error::Ahead { .. } => Status::new(Code::OutOfRange, error.to_string()),
        Error::Ended(_) => Status::new(Code::Unavailable, error.to_string()),
        Error::Store(error) => status::of(error.into()),
    }
}
