//! What `status` shows of the thin backend.

use super::ThinBackend;
use crate::thin::status::Discards;

impl ThinBackend {
    /// Key and value, in the order in which they are shown.
    pub(super) fn lines(&self) -> Vec<(String, String)> {
        let table = self.pool.table();
        let path = |number| {
            self.nodes.path(number).map_or_else(|_| number.to_string(), |p| p.display().to_string())
        };
        let record = self.book.record();
        let report = self.keeper.report();
        let filesystem = self.recipe(self.config.filesystem).fingerprint();
        let mut lines = vec![
            ("pool", self.pool.name().to_owned()),
            ("data device", path(table.data)),
            ("metadata device", path(table.metadata)),
            ("block size", format!("{} KiB", table.block.bytes() / 1024)),
            ("filesystem", filesystem),
            ("trim on commit", if self.config.trim_on_commit { "yes" } else { "no" }.to_owned()),
            ("active volumes", self.devices.count().to_string()),
            ("block devices handed out", self.devices.handed_out_count().to_string()),
            ("thin ids reserved", record.reserved_end.to_string()),
        ];
        if self.config.data_most() > 0 {
            lines.push(("data grows to", format!("{} MiB", self.config.data_most() >> 20)));
        }
        lines.push(("data fills", report.data.to_string()));
        lines.push(("metadata fills", report.metadata.to_string()));
        if !report.state.is_empty() {
            lines.push(("trouble", report.state));
        }
        let failed = self.devices.flush_failures();
        if !failed.is_empty() {
            let ids: Vec<_> = failed.iter().map(ToString::to_string).collect();
            lines.push(("thin ids that lost writes", ids.join(" ")));
        }
        if let Some(mode) = self.assembly.io_mode() {
            lines.push(("loop I/O", mode.to_owned()));
        }
        match self.pool.status() {
            Ok(status) => lines.extend([
                ("pool state", status.condition()),
                ("discards", discards(status.discards).to_owned()),
                ("transaction id", status.transaction_id.to_string()),
                ("data blocks", format!("{} of {}", status.data.used, status.data.total)),
                (
                    "metadata blocks",
                    format!("{} of {}", status.metadata.used, status.metadata.total),
                ),
            ]),
            Err(error) => lines.push(("pool state", format!("unknown: {error}"))),
        }
        if !record.faulty.is_empty() {
            let ids: Vec<_> = record.faulty.iter().map(|f| f.thin_id.to_string()).collect();
            lines.push(("faulty thin ids", ids.join(" ")));
        }
        lines.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

fn discards(discards: Discards) -> &'static str {
    match discards {
        Discards::PassedDown => "passed down to the data device",
        Discards::Kept => "freed in the pool only",
        Discards::Ignored => "ignored",
    }
}
