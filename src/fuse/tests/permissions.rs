//! Who may do what, and whose files they make: other users, set-user-id bits, ACLs, umasks.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use super::*;

/// Runs a shell command as another user, with these supplementary groups.
fn as_user(uid: u32, gid: u32, groups: &str, command: &str) -> bool {
    let groups =
        if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={groups}") };
    let mut run = Command::new("setpriv");
    run.args([
        format!("--reuid={uid}"),
        format!("--regid={gid}"),
        groups,
        "sh".into(),
        "-c".into(),
        command.into(),
    ]);
    run.stderr(std::process::Stdio::null()).status().expect("needs setpriv").success()
}

fn shell(command: &str) -> String {
    let done = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

#[test]
fn files_belong_to_whoever_made_them() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    open_to_all(&root);
    let at = root.display();
    assert!(as_user(
        1000,
        1001,
        "",
        &format!("umask 027; cd {at} && touch f && mkdir d && ln -s x l && mkfifo p")
    ));
    for (name, mode) in [("f", 0o640), ("d", 0o750), ("l", 0o777), ("p", 0o640)] {
        let meta = fs::symlink_metadata(root.join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1000, 1001, mode), "{name}");
    }
}

#[test]
fn permissions_hold_for_others_and_supplementary_groups_count() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    fs::create_dir(root.join("group")).unwrap();
    chown(root.join("group"), Some(0), Some(2000)).unwrap();
    fs::set_permissions(root.join("group"), fs::Permissions::from_mode(0o2770)).unwrap();
    fs::write(root.join("secret"), "x").unwrap();
    fs::set_permissions(root.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let at = root.display();
    assert!(!as_user(1000, 1000, "", &format!("cat {at}/secret")));
    assert!(!as_user(1000, 1000, "", &format!("touch {at}/new")));
    assert!(!as_user(1000, 1000, "", &format!("touch {at}/group/f")));
    assert!(!as_user(1000, 1000, "", &format!("chmod 666 {at}/secret")));
    assert!(as_user(1000, 1000, "2000", &format!("touch {at}/group/f && mkdir {at}/group/d")));
    let (file, directory) =
        (fs::metadata(root.join("group/f")).unwrap(), fs::metadata(root.join("group/d")).unwrap());
    assert_eq!((file.uid(), file.gid()), (1000, 2000));
    assert_eq!((directory.gid(), directory.mode() & 0o2000), (2000, 0o2000));
}

#[test]
fn root_of_a_snapshot_closed_to_others_stays_closed_when_it_is_deactivated() {
    let mounted = Mounted::with(Rig::with_limit(1), true);
    let root = mounted.empty("closed");
    fs::write(root.join("f"), "").unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
    let other = mounted.empty("other");
    fs::write(other.join("f"), "").unwrap();
    wait_until("the first volume is deactivated", || mounted.rig.activated() == 1);
    assert_eq!(mode(&root), 0o700);
    assert!(!as_user(1000, 1000, "", &format!("ls {}", root.display())));
    assert!(!as_user(1000, 1000, "", &format!("cat {}/f", root.display())));
}

#[test]
fn unknown_root_is_looked_at_for_other_users() {
    let mounted = Mounted::with(Rig::in_memory(20_000), true);
    let info = mounted.rig.prepare("closed", None);
    // As after a restart: nobody has asked through the mount yet.
    fs::set_permissions(mounted.rig.backing(&info), fs::Permissions::from_mode(0o700)).unwrap();
    for n in 0..60 {
        mounted.empty(&format!("more{n}"));
    }
    // Root's long listing uses up what may be activated for it, then guesses.
    shell(&format!("ls -l {}", mounted.path("active").display()));
    assert!(mounted.rig.activated() < 60);
    let at = mounted.path("active/closed");
    assert!(!as_user(1000, 1000, "", &format!("ls {}", at.display())));
    assert_eq!(mode(at), 0o700);
}

#[test]
fn change_by_another_user_clears_set_user_id() {
    for mounted in [Mounted::new(), Mounted::without_passthrough()] {
        let root = mounted.empty("a");
        let changes = [
            "printf x >> F",
            "printf x > F",
            "truncate -s 1 F",
            "fallocate -l 100000 F",
            "dd if=/dev/zero of=F bs=4096 count=1 conv=notrunc oflag=direct",
            "python3 -c 'import mmap; f=open(\"F\",\"r+b\"); f.write(b\"x\"); f.close()'",
        ];
        for (n, change) in changes.iter().enumerate() {
            let file = root.join(format!("f{n}"));
            fs::write(&file, vec![0; 8192]).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o6777)).unwrap();
            assert_eq!(mode(&file), 0o6777);
            assert!(
                as_user(1000, 1000, "", &change.replace('F', file.to_str().unwrap())),
                "{change}"
            );
            assert_eq!(mode(&file), 0o777, "{change}");
        }
        let file = root.join("owned");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o6755)).unwrap();
        chown(&file, Some(1), Some(1)).unwrap();
        assert_eq!(mode(&file), 0o755);
    }
}

#[test]
fn file_capabilities_go_when_the_file_changes() {
    for mounted in [Mounted::new(), Mounted::without_passthrough()] {
        let root = mounted.empty("a");
        let file = root.join("f");
        fs::write(&file, "x").unwrap();
        let capability = [0, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let has = || rustix::fs::getxattr(&file, "security.capability", &mut [0_u8; 64]).is_ok();
        rustix::fs::setxattr(
            &file,
            "security.capability",
            &capability,
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        assert!(has());
        fs::write(&file, "changed").unwrap();
        assert!(!has());
    }
}

#[test]
fn set_user_id_program_runs_as_its_owner() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    let program = root.join("id");
    fs::copy("/usr/bin/id", &program).unwrap();
    chown(&program, Some(4242), Some(0)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    assert!(as_user(1000, 1000, "", &format!("test \"$({} -u)\" = 4242", program.display())));
}

#[test]
fn default_acl_takes_the_place_of_the_umask() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    open_to_all(&root);
    let at = root.display();
    shell(&format!("mkdir -m 777 {at}/d && setfacl -d -m u::rwx,g::rwx,o::-,u:77:rw {at}/d"));
    assert!(as_user(
        1000,
        1000,
        "",
        &format!("umask 077; touch {at}/d/f {at}/plain; mkdir {at}/d/sub")
    ));
    assert_eq!(mode(root.join("plain")), 0o600);
    assert_eq!(mode(root.join("d/f")), 0o660);
    let acl = shell(&format!("getfacl -cpE {at}/d/f {at}/d/sub"));
    assert!(acl.contains("user:77:rw-") && acl.contains("default:user:77:rw-"), "{acl}");
}

#[test]
fn acl_entries_decide() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    let at = root.display();
    shell(&format!("echo x > {at}/f && chmod 600 {at}/f"));
    assert!(!as_user(1000, 1000, "", &format!("cat {at}/f")));
    shell(&format!("setfacl -m u:1000:r {at}/f"));
    assert!(as_user(1000, 1000, "", &format!("cat {at}/f")));
    assert!(!as_user(1001, 1001, "", &format!("cat {at}/f")));
    shell(&format!("setfacl -b {at}/f && chmod 600 {at}/f"));
    assert!(!as_user(1000, 1000, "", &format!("cat {at}/f")));
}

#[test]
fn set_group_id_stays_for_members_and_goes_for_others() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    let file = root.join("f");
    fs::write(&file, "").unwrap();
    chown(&file, Some(1000), Some(2000)).unwrap();
    let at = file.display();
    assert!(as_user(1000, 1000, "2000", &format!("chmod 2755 {at}")));
    assert_eq!(mode(&file), 0o2755);
    assert!(as_user(1000, 1000, "2000", &format!("setfacl -m u:1:r {at}")));
    assert_eq!(mode(&file) & 0o2000, 0o2000);
    assert!(as_user(1000, 1000, "", &format!("setfacl -m u:2:r {at}")));
    assert_eq!(mode(&file) & 0o2000, 0);
    assert!(as_user(1000, 1000, "", &format!("chmod 2755 {at}")));
    assert_eq!(mode(&file), 0o755);
}

#[test]
fn trusted_attributes_are_hidden_from_other_users() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    fs::write(root.join("f"), "").unwrap();
    rustix::fs::setxattr(root.join("f"), "trusted.x", b"1", rustix::fs::XattrFlags::empty())
        .unwrap();
    let script = "import os,sys; sys.exit(len(os.listxattr(sys.argv[1])))";
    assert!(as_user(
        1000,
        1000,
        "",
        &format!("python3 -c '{script}' {}", root.join("f").display())
    ));
}
