//! Which backend holds this root's data, and why.

use std::sync::Arc;

use super::error::{Error, Result};
use super::ledger::StoreLedger;
use super::root::Root;
use crate::config::{BackendChoice, Config, FsType, PoolSource};
use crate::meta::Store;
use crate::types::MountForm;
use crate::volume::thin::{self, Filesystem, ThinBackend, ThinConfig};
use crate::volume::{Backend, NativeBackend, NativeConfig};

/// A backend that can be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Thin,
    Native,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Thin => "thin",
            Self::Native => "native",
        }
    }
}

/// What was chosen, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) kind: Kind,
    pub(super) why: String,
}

/// Chooses a backend, says which and why, and starts it.
pub(super) fn start(config: &Config, root: &Root, store: &Arc<Store>) -> Result<Arc<dyn Backend>> {
    let Choice { kind, why } = choose(config, root, thin::available)?;
    tracing::info!("backend {}: {why}", kind.as_str());
    if kind == Kind::Native && config.mount_form == MountForm::Block {
        return Err(Error::NoBlockDevices(why));
    }
    match kind {
        Kind::Native => {
            let native = NativeBackend::start(NativeConfig { dir: root.private("native")? });
            Ok(Arc::new(native.map_err(|source| Error::Backend { name: "native", source })?))
        }
        Kind::Thin => {
            let ledger = Arc::new(StoreLedger::new(Arc::clone(store)));
            let thin = ThinBackend::start(thin_config(config, root)?, ledger);
            Ok(Arc::new(thin.map_err(|source| Error::Backend { name: "thin", source })?))
        }
    }
}

fn thin_config(config: &Config, root: &Root) -> Result<ThinConfig> {
    let dir = root.private("thin")?;
    let source = match config.pool.clone() {
        PoolSource::Files { size, most } => thin::PoolSource::Auto { dir, size, most },
        PoolSource::Devices { data, metadata } => thin::PoolSource::Devices { data, metadata },
        PoolSource::Existing(name) => thin::PoolSource::Existing { name },
    };
    Ok(ThinConfig {
        source,
        volume_size: config.volume_size,
        force_adopt: config.force_adopt,
        filesystem: match config.fs_type {
            FsType::Ext4 => Filesystem::Ext4,
            FsType::Xfs => Filesystem::Xfs,
            FsType::Ext2 => Filesystem::Ext2,
        },
        mkfs_options: config.fs_options.clone(),
        trim_on_commit: config.trim_on_commit,
        ..ThinConfig::new(root.path().to_owned())
    })
}

/// Chooses. A root that holds data keeps its backend.
pub(super) fn choose(
    config: &Config,
    root: &Root,
    probe: impl FnOnce() -> std::result::Result<(), String>,
) -> Result<Choice> {
    match root.backend()?.as_deref() {
        None => choose_new(config, probe),
        Some("thin") => keep(config, Kind::Thin).and_then(|choice| match probe() {
            Ok(()) => Ok(choice),
            Err(why) => Err(Error::NoThin(why)),
        }),
        Some("native") => keep(config, Kind::Native),
        Some(other) => {
            Err(Error::UnknownBackend { path: root.backend_file(), says: other.to_owned() })
        }
    }
}

fn choose_new(
    config: &Config,
    probe: impl FnOnce() -> std::result::Result<(), String>,
) -> Result<Choice> {
    let asked = asked(config);
    if asked == BackendChoice::Native {
        return Ok(Choice { kind: Kind::Native, why: "asked for".to_owned() });
    }
    match (asked, probe()) {
        (BackendChoice::Thin, Ok(())) => {
            Ok(Choice { kind: Kind::Thin, why: "asked for".to_owned() })
        }
        (BackendChoice::Thin, Err(why)) => Err(Error::NoThin(why)),
        (_, Ok(())) => Ok(Choice { kind: Kind::Thin, why: "dm-thin can be used here".to_owned() }),
        (_, Err(why)) => {
            Ok(Choice { kind: Kind::Native, why: format!("dm-thin cannot be used: {why}") })
        }
    }
}

fn keep(config: &Config, holds: Kind) -> Result<Choice> {
    let fits = match asked(config) {
        BackendChoice::Auto => true,
        BackendChoice::Thin => holds == Kind::Thin,
        BackendChoice::Native => holds == Kind::Native,
    };
    if fits {
        return Ok(Choice { kind: holds, why: "this root holds its data".to_owned() });
    }
    let (holds, asked) = (holds.as_str().to_owned(), asked(config).to_string());
    Err(Error::OtherBackend { root: config.root.clone(), holds, asked })
}

/// Whoever says what the pool is made of wants one.
fn asked(config: &Config) -> BackendChoice {
    match (config.backend, &config.pool) {
        (BackendChoice::Auto, PoolSource::Files { size: None, most: None }) => BackendChoice::Auto,
        (BackendChoice::Auto, _) => BackendChoice::Thin,
        (asked, _) => asked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn config(backend: BackendChoice, pool: Option<&str>) -> Config {
        let mut config = Config::try_from(Settings::default()).unwrap();
        config.backend = backend;
        if let Some(pool) = pool {
            config.pool = PoolSource::Existing(pool.to_owned());
        }
        config
    }

    fn root(holds: Option<&str>) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::lock(dir.path()).unwrap();
        if let Some(holds) = holds {
            root.record_backend(holds).unwrap();
        }
        (dir, root)
    }

    #[test]
    fn the_backend_follows_from_what_is_asked_what_is_held_and_what_the_kernel_has() {
        use BackendChoice::{Auto, Native, Thin};
        // asked, pool, held, dm-thin usable → chosen; None: refused
        let table = [
            (Auto, None, None, true, Some(Kind::Thin)),
            (Auto, None, None, false, Some(Kind::Native)),
            (Auto, Some("p"), None, true, Some(Kind::Thin)),
            (Auto, Some("p"), None, false, None),
            (Thin, None, None, true, Some(Kind::Thin)),
            (Thin, None, None, false, None),
            (Native, None, None, true, Some(Kind::Native)),
            (Auto, None, Some("native"), true, Some(Kind::Native)),
            (Auto, Some("p"), Some("native"), true, None),
            (Native, None, Some("native"), false, Some(Kind::Native)),
            (Thin, None, Some("native"), true, None),
            (Auto, None, Some("thin"), true, Some(Kind::Thin)),
            (Auto, None, Some("thin"), false, None),
            (Native, None, Some("thin"), true, None),
            (Auto, None, Some("zfs"), true, None),
        ];
        for (asked, pool, held, usable, chosen) in table {
            let (_dir, root) = root(held);
            let probe = || if usable { Ok(()) } else { Err("no thin-pool target".to_owned()) };
            let choice = choose(&config(asked, pool), &root, probe);
            let got = choice.as_ref().ok().map(|choice| choice.kind);
            assert_eq!(got, chosen, "{asked} {pool:?} {held:?} {usable}: {choice:?}");
        }
    }

    #[test]
    fn falling_back_to_native_says_why() {
        let (_dir, root) = root(None);
        let probe = || Err("no thin-pool target".to_owned());
        let choice = choose(&config(BackendChoice::Auto, None), &root, probe).unwrap();
        assert_eq!(choice.why, "dm-thin cannot be used: no thin-pool target");
    }
}
