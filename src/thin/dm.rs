//! Device-mapper ioctls, with errors that keep their errno.
//!
//! Wraps the core of the `devicemapper` crate only; its pool and thin types hide errno, leak ids on
//! failure and leave an origin suspended. Every device is made with udev told to keep its hands
//! off (no scan, no symlink): nobody else opens what nobody else can find.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use devicemapper::{
    DM, DevId, Device, DeviceInfo, DmError, DmFlags, DmName, DmOptions, DmUdevFlags, errors,
};

use super::table::Table;
use crate::crashpoint::{Step, around};

/// The control device.
const CONTROL: &str = "/dev/mapper/control";

/// A device-mapper call that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/mapper/control` cannot be used.
    #[error("device-mapper is not usable: {0}")]
    Unavailable(String),
    /// An ioctl failed.
    #[error("{action} {device}")]
    Ioctl {
        /// What was being done.
        action: String,
        /// To which device.
        device: String,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The call failed on our side of the ioctl.
    #[error("{action} {device}: {why}")]
    Other {
        /// What was being done.
        action: String,
        /// To which device.
        device: String,
        /// The reason.
        why: String,
    },
}

impl Error {
    /// The errno, where the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Ioctl { source, .. } => source.raw_os_error(),
            Error::Unavailable(_) | Error::Other { .. } => None,
        }
    }

    fn new(action: &str, device: &str, error: DmError) -> Self {
        let (action, device) = (action.to_owned(), device.to_owned());
        match error {
            DmError::Core(errors::Error::Ioctl(_, _, _, errno)) => {
                Error::Ioctl { action, device, source: io::Error::from_raw_os_error(*errno as i32) }
            }
            other => Error::Other { action, device, why: other.to_string() },
        }
    }
}

/// The result of a device-mapper call.
pub type Result<T> = std::result::Result<T, Error>;

/// A target's version: major, minor, patch level.
pub type Version = (u32, u32, u32);

/// A block device's number. Displays as `major:minor`, which tables accept for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DevNum {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl fmt::Display for DevNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl From<(u32, u32)> for DevNum {
    fn from((major, minor): (u32, u32)) -> Self {
        Self { major, minor }
    }
}

impl From<Device> for DevNum {
    fn from(device: Device) -> Self {
        Self { major: device.major, minor: device.minor }
    }
}

/// What device-mapper knows of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Its number.
    pub number: DevNum,
    /// How many have it open; a mounted filesystem is one.
    pub open_count: u32,
    /// Suspended: I/O waits.
    pub suspended: bool,
    /// Has a live table. A device between creation and its first resume has none.
    pub live: bool,
    /// Refuses writes.
    pub read_only: bool,
}

impl From<DeviceInfo> for Info {
    fn from(info: DeviceInfo) -> Self {
        let flags = info.flags();
        Self {
            number: info.device().into(),
            open_count: u32::try_from(info.open_count()).unwrap_or(0),
            suspended: flags.contains(DmFlags::DM_SUSPEND),
            live: flags.contains(DmFlags::DM_ACTIVE_PRESENT),
            read_only: flags.contains(DmFlags::DM_READONLY),
        }
    }
}

/// The control device. One per process is enough; calls run concurrently.
pub struct Dm {
    control: DM,
}

impl fmt::Debug for Dm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dm")
    }
}

/// Runs an ioctl on a device named by a string.
macro_rules! call {
    ($action:expr, $name:expr, |$id:ident| $body:expr) => {{
        let $id = &DevId::Name(dm_name($action, $name)?);
        $body.map_err(|e| Error::new($action, $name, e))
    }};
}

impl Dm {
    /// Opens the control device.
    pub fn open() -> Result<Self> {
        // The crate's own message hides which file it is about.
        std::fs::File::open(CONTROL).map_err(|e| Error::Unavailable(format!("{CONTROL}: {e}")))?;
        let control = DM::new().map_err(|e| Error::Unavailable(e.to_string()))?;
        Ok(Self { control })
    }

    /// The targets that the kernel has loaded, with their versions.
    pub fn targets(&self) -> Result<Vec<(String, Version)>> {
        let versions = self
            .control
            .list_versions()
            .map_err(|e| Error::new("listing targets of", "the kernel", e))?;
        Ok(versions.into_iter().map(|(name, a, b, c)| (name, (a, b, c))).collect())
    }

    /// The names of all devices.
    pub fn devices(&self) -> Result<Vec<String>> {
        let devices =
            self.control.list_devices().map_err(|e| Error::new("listing", "all devices", e))?;
        Ok(devices.into_iter().map(|(name, _, _)| name.to_string()).collect())
    }

    /// What is known of the device; `None` when there is none of that name.
    pub fn info(&self, name: &str) -> Result<Option<Info>> {
        match call!("looking at", name, |id| self.control.device_info(id)) {
            Ok(info) => Ok(Some(info.into())),
            Err(e) if e.errno() == Some(libc::ENXIO) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Creates, loads and resumes a device. After a failure no device of that name is left, unless
    /// there was one before (EBUSY).
    pub fn activate(&self, name: &str, table: &Table, read_only: bool) -> Result<DevNum> {
        let action = "creating";
        let options = private(if read_only { DmFlags::DM_READONLY } else { DmFlags::empty() });
        let id = dm_name(action, name)?;
        let created = around(Step::DmCreate, || self.control.device_create(id, None, options))
            .map_err(|e| Error::new(action, name, e))?;
        if let Err(error) = self.load_and_resume(name, table, read_only) {
            if let Err(undo) = self.remove(name) {
                tracing::warn!(device = name, error = %undo, "a device that failed to start could not be removed");
            }
            return Err(error);
        }
        Ok(created.device().into())
    }

    fn load_and_resume(&self, name: &str, table: &Table, read_only: bool) -> Result<()> {
        let options = private(if read_only { DmFlags::DM_READONLY } else { DmFlags::empty() });
        let lines = [table.line()];
        call!("loading the table of", name, |id| around(Step::DmLoad, || self
            .control
            .table_load(id, &lines, options)))?;
        self.resume(name)
    }

    /// Replaces the table of a live device. I/O waits meanwhile; nothing is flushed for it.
    pub fn reload(&self, name: &str, table: &Table) -> Result<()> {
        self.load_beside(name, table)?;
        self.swap(name)
    }

    /// Loads a table beside the live one.
    pub fn load_beside(&self, name: &str, table: &Table) -> Result<()> {
        let lines = [table.line()];
        let options = || private(DmFlags::empty());
        call!("loading the table of", name, |id| around(Step::DmReload, || self
            .control
            .table_load(id, &lines, options())))
        .map(drop)
    }

    /// Makes the table live that was loaded beside.
    pub fn swap(&self, name: &str) -> Result<()> {
        let flags = DmFlags::DM_NOFLUSH | DmFlags::DM_SKIP_LOCKFS;
        call!("resuming", name, |id| around(Step::DmSwap, || self
            .control
            .device_suspend(id, private(flags))))
        .map(drop)
    }

    /// From now on an event of any device makes [`Dm::control`] readable.
    pub fn arm(&self) -> Result<()> {
        self.control.arm_poll().map(drop).map_err(|e| Error::new("arming", "the control device", e))
    }

    /// The control device, for waiting.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.file().as_fd()
    }

    /// Makes a loaded table live, and lets I/O go on.
    pub fn resume(&self, name: &str) -> Result<()> {
        let options = private(DmFlags::empty());
        call!("resuming", name, |id| around(Step::DmResume, || self
            .control
            .device_suspend(id, options)))
        .map(drop)
    }

    /// Removes a device. EBUSY while somebody has it open; the crate tries for a second.
    pub fn remove(&self, name: &str) -> Result<()> {
        let options = private(DmFlags::empty());
        call!("removing", name, |id| around(Step::DmRemove, || self
            .control
            .device_remove(id, options)))
        .map(drop)
    }

    /// Sends a message to the device's target, as the step that it is.
    pub fn message(&self, name: &str, step: Step, text: &str) -> Result<()> {
        let action = format!("sending {text:?} to");
        call!(&action, name, |id| around(step, || self.control.target_msg(id, None, text)))
            .map(drop)
    }

    /// The status line of the device's only target, without making it write.
    pub fn status(&self, name: &str) -> Result<String> {
        self.line(name, "reading the status of", DmFlags::DM_NOFLUSH).map(|table| table.parameters)
    }

    /// The live table of the device; `None` where it has no live table.
    pub fn table(&self, name: &str) -> Result<Option<Table>> {
        match self.info(name)? {
            Some(info) if info.live => self
                .line(name, "reading the table of", DmFlags::DM_STATUS_TABLE | DmFlags::DM_NOFLUSH)
                .map(Some),
            _ => Ok(None),
        }
    }

    fn line(&self, name: &str, action: &str, flags: DmFlags) -> Result<Table> {
        let (_, lines) = call!(action, name, |id| self.control.table_status(id, private(flags)))?;
        let [(0, length, target, parameters)] = &lines[..] else {
            let why = format!("{} targets where one was expected", lines.len());
            return Err(Error::Other { action: action.to_owned(), device: name.to_owned(), why });
        };
        Ok(Table::new(super::Sectors(*length), target, parameters))
    }
}

/// Options that keep udev away from the device: no scan, no symlink.
fn private(flags: DmFlags) -> DmOptions {
    DmOptions::default().set_flags(flags).set_udev_flags(
        DmUdevFlags::DM_UDEV_DISABLE_DM_RULES_FLAG
            | DmUdevFlags::DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG
            | DmUdevFlags::DM_UDEV_DISABLE_DISK_RULES_FLAG
            | DmUdevFlags::DM_UDEV_DISABLE_OTHER_RULES_FLAG,
    )
}

fn dm_name<'a>(action: &str, name: &'a str) -> Result<&'a DmName> {
    DmName::new(name).map_err(|e| Error::new(action, name, e))
}
