use std::path::{Path, PathBuf};

use clap::Parser;

use super::*;

/// A command line of settings only.
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    settings: Settings,
}

fn flags(args: &[&str]) -> Settings {
    let flags = Flags::parse_from([&["thinfs"], args].concat());
    flags.settings.at(&flags.place)
}

fn file(text: &str) -> Result<Settings, Error> {
    Settings::from_toml(text, Path::new("/etc/thinfs.toml"))
}

fn config(args: &[&str], text: &str) -> Result<Config, Error> {
    Config::try_from(flags(args).over(file(text)?))
}

#[test]
fn without_settings_everything_is_below_the_default_root() {
    let config = config(&[], "").unwrap();
    assert_eq!(config.root, Path::new("/var/lib/thinfs"));
    assert_eq!(config.mount, Path::new("/var/lib/thinfs/mnt"));
    assert_eq!(config.socket, Path::new("/var/lib/thinfs/thinfs.sock"));
    assert_eq!(config.backend, BackendChoice::Auto);
    assert_eq!(config.pool, PoolSource::Files { size: None, most: None });
    assert_eq!(config.volume_size, 10 << 30);
    assert_eq!(
        (config.fs_type, config.fs_options, config.trim_on_commit),
        (FsType::Ext4, vec![], true)
    );
    assert_eq!(config.containerd_namespace.as_str(), "containerd");
    assert_eq!(config.mount_form, MountForm::Bind);
    assert_eq!(config.log_format, LogFormat::Text);
}

#[test]
fn the_mount_form_is_a_word_and_block_needs_block_devices() {
    assert_eq!(config(&[], "mount-form = 'block'").unwrap().mount_form, MountForm::Block);
    let flag = config(&["--mount-form", "bind"], "mount-form = 'block'").unwrap();
    assert_eq!(flag.mount_form, MountForm::Bind);
    assert!(matches!(config(&[], "mount-form = 'nbd'"), Err(Error::Parse { .. })));
    let native = config(&["--backend", "native", "--mount-form", "block"], "");
    assert!(matches!(native, Err(Error::Conflict(_))));
}

#[test]
fn a_flag_wins_over_the_file_setting_by_setting() {
    let text = "root = '/file'\nmount = '/file/m'\nvolume-size = '2G'\nmax-active = 7\nlog-format = 'json'";
    let config = config(&["--root", "/flag", "--volume-size", "3G"], text).unwrap();
    assert_eq!(config.root, Path::new("/flag"));
    assert_eq!(config.socket, Path::new("/flag/thinfs.sock"));
    assert_eq!(config.mount, Path::new("/file/m"));
    assert_eq!(config.volume_size, 3 << 30);
    assert_eq!(config.max_active, 7);
    assert_eq!(config.log_format, LogFormat::Json);
}

#[test]
fn filesystem_and_trimming_are_settings_of_every_layer() {
    let text = "fs-type = 'xfs'\nfs-options = '-m crc=1'\ntrim-on-commit = false";
    let from_file = config(&[], text).unwrap();
    assert_eq!((from_file.fs_type, from_file.trim_on_commit), (FsType::Xfs, false));
    assert_eq!(from_file.fs_options, ["-m", "crc=1"]);
    let flags = ["--fs-type", "ext2", "--fs-options", "-i 65536", "--trim-on-commit", "true"];
    let from_flags = config(&flags, text).unwrap();
    assert_eq!((from_flags.fs_type, from_flags.trim_on_commit), (FsType::Ext2, true));
    assert_eq!(from_flags.fs_options, ["-i", "65536"]);
}

/// The environment belongs to the whole process, so this asks a process of its own: it runs this
/// test once more and looks at what that prints.
#[test]
fn the_environment_wins_over_the_file_and_a_flag_over_the_environment() {
    const INNER: &str = "THINFS_TEST_INNER";
    if std::env::var_os(INNER).is_some() {
        let text = "root = '/file'\nmax-active = 1\nvolume-size = '1G'";
        let config = config(&["--volume-size", "3G"], text).unwrap();
        assert_eq!(config.root, Path::new("/file"));
        assert_eq!(config.max_active, 2);
        assert_eq!(config.volume_size, 3 << 30);
        return;
    }
    let me = std::env::current_exe().unwrap();
    let inner = std::process::Command::new(me)
        .args([
            "--exact",
            "config::tests::the_environment_wins_over_the_file_and_a_flag_over_the_environment",
        ])
        .envs([(INNER, "1"), ("THINFS_MAX_ACTIVE", "2"), ("THINFS_VOLUME_SIZE", "2G")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&inner.stdout);
    assert!(inner.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn an_unknown_key_in_the_file_is_an_error_that_names_it() {
    let error = file("max-actve = 3").unwrap_err().to_string();
    assert!(error.contains("max-actve") && error.contains("/etc/thinfs.toml"), "{error}");
}

#[test]
fn a_relative_path_counts_from_the_working_directory_as_a_flag_and_is_refused_in_the_file() {
    let here = std::env::current_dir().unwrap();
    assert_eq!(config(&["--root", "x"], "").unwrap().root, here.join("x"));
    let error = config(&[], "root = 'x'").unwrap_err();
    assert!(matches!(error, Error::RelativePath { setting: "root", .. }), "{error}");
}

#[test]
fn pool_settings_that_contradict_each_other_are_refused() {
    for args in [
        &["--data-device", "/dev/a"][..],
        &["--metadata-device", "/dev/b"],
        &["--pool", "p", "--pool-size", "1G"],
        &["--pool", "p", "--data-device", "/dev/a", "--metadata-device", "/dev/b"],
        &["--pool-size", "1G", "--data-device", "/dev/a", "--metadata-device", "/dev/b"],
        &["--backend", "native", "--pool", "p"],
        &["--backend", "native", "--pool-max-size", "1G"],
        &["--pool", "p", "--pool-max-size", "1G"],
    ] {
        assert!(matches!(config(args, ""), Err(Error::Conflict(_))), "{args:?}");
    }
}

#[test]
fn the_pool_comes_from_files_devices_or_a_name() {
    let pool = |args| config(args, "").unwrap().pool;
    assert_eq!(pool(&["--pool-size", "1G"]), PoolSource::Files { size: Some(1 << 30), most: None });
    assert_eq!(
        pool(&["--pool-max-size", "2G"]),
        PoolSource::Files { size: None, most: Some(2 << 30) }
    );
    assert_eq!(pool(&["--pool", "p"]), PoolSource::Existing("p".into()));
    let devices = PoolSource::Devices { data: "/dev/a".into(), metadata: "/dev/b".into() };
    assert_eq!(pool(&["--data-device", "/dev/a", "--metadata-device", "/dev/b"]), devices);
}

#[test]
fn values_that_cannot_work_are_refused() {
    assert!(matches!(config(&["--volume-size", "1M"], ""), Err(Error::TooSmall { .. })));
    assert!(matches!(config(&["--pool-size", "1M"], ""), Err(Error::TooSmall { .. })));
    assert!(matches!(config(&["--max-active", "0"], ""), Err(Error::NoActive)));
    assert!(matches!(config(&["--containerd-namespace", "a/b"], ""), Err(Error::Namespace(_))));
}

#[test]
fn sizes_are_read_and_written_in_powers_of_1024() {
    for (text, bytes) in
        [("0", 0), ("123", 123), ("4K", 4096), ("4kib", 4096), ("10G", 10 << 30), ("2T", 2 << 40)]
    {
        assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
    }
    for text in ["", "G", "-1", "1.5G", "1X", "99999999999999999999", "17000000T", " 1"] {
        assert!(text.parse::<Bytes>().is_err(), "{text}");
    }
    assert_eq!(Bytes(10 << 30).to_string(), "10G");
    assert_eq!(Bytes(1025).to_string(), "1025");
}

#[test]
fn a_size_in_the_file_is_a_number_or_a_text() {
    assert_eq!(config(&[], "volume-size = 1073741824").unwrap().volume_size, 1 << 30);
    assert_eq!(config(&[], "volume-size = '1G'").unwrap().volume_size, 1 << 30);
    assert!(file("volume-size = -1").is_err());
}

#[test]
fn a_named_file_must_exist() {
    let missing = PathBuf::from("/nonexistent/thinfs.toml");
    assert!(matches!(Settings::from_file(Some(&missing)), Err(Error::Read { .. })));
}

#[test]
fn the_collector_has_containerds_settings_and_defaults() {
    let gc = config(&[], "").unwrap().gc;
    assert_eq!(gc.pause_threshold.get(), 0.02);
    assert_eq!((gc.deletion_threshold, gc.mutation_threshold), (0, 100));
    assert_eq!((gc.schedule_delay.as_millis(), gc.startup_delay.as_millis()), (0, 100));
    let text = "[gc]\npause-threshold = 0.1\nschedule-delay = '1s 500ms'\nmutation-threshold = 7";
    let gc = config(&["--gc-mutation-threshold", "8", "--gc-startup-delay", "0"], text).unwrap().gc;
    assert_eq!(gc.pause_threshold.get(), 0.1);
    assert_eq!((gc.mutation_threshold, gc.schedule_delay.as_millis()), (8, 1500));
    assert!(gc.startup_delay.is_zero());
    for bad in ["[gc]\npause-threshold = 0.6", "[gc]\nschedule-delay = 'soon'", "[gc]\nodd = 1"] {
        assert!(config(&[], bad).is_err(), "{bad}");
    }
}
