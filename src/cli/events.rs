//! `events`: what happens, a line each, as it happens.

use super::args::EventsArgs;
use super::client::Client;
use super::error::{Asked, Result};
use super::json;
use super::output::{Out, printable, time};
use crate::grpc::proto::thinfs::admin::v1 as admin;
use admin::event_item::Item;

pub(super) async fn events(args: EventsArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let request = admin::EventsRequest { since: args.since, no_wait: args.no_wait };
    let asked = || "read events".to_owned();
    let mut stream = client.admin.events(request).await.asked(asked)?.into_inner();
    while let Some(reply) = stream.message().await.asked(asked)? {
        reply
            .items
            .into_iter()
            .filter_map(|item| item.item)
            .try_for_each(|item| print(item, out))?;
        out.flush()?;
    }
    Ok(())
}

pub(super) fn print(item: Item, out: &mut Out) -> std::io::Result<()> {
    match item {
        Item::Event(event) if out.json => out.object(&json::Event::from(event)),
        Item::Gone(gone) if out.json => {
            out.object(&json::Gone { gone: json::Range { from: gone.from, to: gone.to } })
        }
        Item::Event(event) => out.line(line(&event)),
        Item::Gone(admin::Gone { from, to }) => {
            out.line(format!("(events {from} to {to} are gone: they came faster than they were read, or a backup was restored)"))
        }
    }
}

fn line(event: &admin::Event) -> String {
    let mut line =
        format!("{} {} {}", event.sequence, event.at.map(time).unwrap_or_default(), event.topic,);
    if !event.namespace.is_empty() {
        line.push_str(&format!(" {}/{}", event.namespace, printable(&event.key)));
    } else if !event.key.is_empty() {
        line.push_str(&format!(" {}", printable(&event.key)));
    }
    for (name, value) in &event.details {
        line.push_str(&format!(" {name}={}", printable(value)));
    }
    line
}
