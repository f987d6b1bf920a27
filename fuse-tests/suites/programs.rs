//! Programs that people run on a root filesystem. Each works in a snapshot, checks its own work in the way it offers,
//! and finds it again, byte for byte and with all metadata, in the committed snapshot and in a child of it after their
//! volumes have been evicted. (`cp -a`, `rsync -aHAXS` and `tar` are in `fidelity.rs`.)

use crate::harness::sh;
use crate::harness::tree::listing;

use super::{Neighbours, rounds, with_max_active};

/// Runs a script in a new snapshot, then commits and compares.
fn works_and_is_kept(script: &str) {
    let d = with_max_active(1);
    let neighbours = Neighbours::prepare(&d, 2);
    d.cli(&["prepare", "work"]).ok();
    sh(&format!("cd '{}' && umask 022\n{script}", d.active("work").display())).ok();
    neighbours.touch();
    let made = listing(&d.active("work"));
    assert!(made.len() > 5, "the script made something");
    d.cli(&["commit", "work", "done"]).ok();
    d.cli(&["prepare", "child", "--parent", "done"]).ok();
    neighbours.touch();
    assert_eq!(listing(&d.committed("done")), made, "in the committed snapshot");
    neighbours.touch();
    assert_eq!(listing(&d.active("child")), made, "in a child of it");
    assert_eq!(d.cli(&["diff", "done", "child"]).ok(), "");
    d.finish();
}

/// dpkg writes beside, syncs and renames; it keeps conffiles, links and modes, and can say whether all is as packed.
#[test]
fn dpkg_installs_upgrades_and_verifies_below_a_root() {
    works_and_is_kept(&format!(
        r#"
        mkdir -p root/var/lib/dpkg/updates root/var/lib/dpkg/info build
        touch root/var/lib/dpkg/status root/var/lib/dpkg/available
        pack() {{ # version, how many files
            rm -rf p; mkdir -p p/DEBIAN p/etc p/usr/bin p/usr/share/doc
            printf 'Package: sample\nVersion: %s\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n' "$1" > p/DEBIAN/control
            echo /etc/sample.conf > p/DEBIAN/conffiles
            echo "version $1" > p/etc/sample.conf
            for n in $(seq "$2"); do echo "$1 $n" > "p/usr/share/doc/file-$n"; done
            cp /bin/busybox p/usr/bin/tool; chmod 4755 p/usr/bin/tool; ln p/usr/bin/tool p/usr/bin/hard
            ln -s tool p/usr/bin/soft; chmod 1777 p/usr/share/doc
            dpkg-deb -Zgzip --root-owner-group --build p "build/sample_$1.deb" >/dev/null
        }}
        pack 1 {files}; pack 2 {more}
        dpkg --root="$PWD/root" --force-script-chrootless -i build/sample_1.deb
        test "$(cat root/etc/sample.conf)" = 'version 1'
        dpkg --root="$PWD/root" --force-script-chrootless -i build/sample_2.deb
        test "$(cat root/usr/share/doc/file-1)" = '2 1'
        test "$(dpkg --root="$PWD/root" --verify sample)" = ''
        test root/usr/bin/tool -ef root/usr/bin/hard; test -u root/usr/bin/tool
        test "$(find root -name '*.dpkg-*' | wc -l)" = 0
        "#,
        files = rounds(300, 20),
        more = rounds(200, 10),
    ));
}

/// A root filesystem out of this machine's own essential packages, unpacked as an image is, and lived in.
#[test]
fn a_root_filesystem_is_unpacked_and_its_programs_run_in_it() {
    works_and_is_kept(
        r#"
        # A package may have another name on another release.
        files() { { dpkg -L base-files bash coreutils dash grep sed libc6 libc-bin libtinfo6 libselinux1 libpcre2-8-0 libacl1 libattr1 libgmp10 2>/dev/null || true; } |
            grep -vE '/(doc|man|locale|lintian|i18n|gconv)(/|$)' | sort -u; }
        # Directories and links first as themselves: with a merged /usr most paths lead through links.
        for link in bin sbin lib lib64; do ln -s "usr/$link" "$link"; mkdir -p "usr/$link"; done
        files | while read -r f; do if test -e "$f"; then readlink -f "$f"; fi; done | sort -u |
            tar --no-recursion --xattrs --acls -cf - -T - 2>/dev/null | tar --xattrs --acls -xpf - --keep-directory-symlink
        files | while read -r f; do if test -L "$f" && test ! -e ".$f" && test ! -L ".$f"; then mkdir -p ".${f%/*}"; cp -a "$f" ".$f"; fi; done
        mkdir -p dev proc tmp; chmod 1777 tmp; mknod -m 666 dev/null c 1 3
        chroot . /bin/bash -euc 'echo alive > /tmp/a; test "$(cat /tmp/a)" = alive; ls -lR /etc > /tmp/list; grep -c . /tmp/list > /dev/null
            seq 1000 | sort -rn | head -n 1 > /tmp/max; test "$(cat /tmp/max)" = 1000; mkfifo /tmp/p; (echo through > /tmp/p) & read -r line < /tmp/p; test "$line" = through'
        "#,
    );
}

#[test]
fn git_clones_collects_and_finds_no_fault() {
    works_and_is_kept(&format!(
        r#"
        export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x@x GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x@x
        git init -q -b main origin; cd origin
        for commit in $(seq {commits}); do
            mkdir -p "d$commit/e"
            for n in $(seq {files}); do echo "$commit $n" > "d$commit/e/f$n"; done
            seq "$commit" 5000 > numbers; chmod +x numbers; ln -sf "d$commit" latest
            git add -A; git commit -q -m "commit $commit"
        done
        cd ..; git clone -q --no-local origin clone; git clone -q origin linked
        for repository in origin clone linked; do
            git -C $repository fsck --full --strict; test "$(git -C $repository status --porcelain)" = ''
        done
        cd clone; git checkout -q HEAD~2; git checkout -q main; git gc -q --aggressive --prune=now; git fsck --full --strict
        test "$(git rev-parse main)" = "$(git -C ../origin rev-parse main)"
        git worktree add -q ../tree HEAD~1; test "$(git -C ../tree status --porcelain)" = ''
        "#,
        commits = rounds(8, 3),
        files = rounds(50, 5),
    ));
}

/// Locks, journals and shared mappings: four processes write one database, in each of its two journal modes.
#[test]
fn sqlite_with_concurrent_writers_stays_sound() {
    works_and_is_kept(&format!(
        r#"
        cat > writer.py <<'P'
import sqlite3, sys
mode, who, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
db = sqlite3.connect(mode + ".db", timeout=120, isolation_level=None)
for n in range(rows):
    db.execute("begin immediate")
    db.execute("insert into t values (?, ?, ?)", (who, n, "x" * (n % 900)))
    db.execute("update total set n = n + 1")
    db.execute("rollback" if n % 7 == 3 else "commit")
P
        for mode in wal delete; do
            python3 -c "
import sqlite3
db = sqlite3.connect('$mode.db')
assert db.execute('pragma journal_mode=$mode').fetchone()[0] == '$mode'
db.executescript('create table t (who, n, x); create index i on t (x, n); create table total (n); insert into total values (0)')
"
            pids=''
            for who in 1 2 3 4; do python3 writer.py $mode $who {rows} & pids="$pids $!"; done
            for pid in $pids; do wait "$pid"; done
            python3 -c "
import sqlite3
db = sqlite3.connect('$mode.db')
assert db.execute('pragma integrity_check').fetchall() == [('ok',)]
kept = sum(n % 7 != 3 for n in range({rows})) * 4
assert db.execute('select n from total').fetchone()[0] == kept, 'a lost update'
assert db.execute('select count(*) from t').fetchone()[0] == kept
db.execute('vacuum')
assert db.execute('pragma integrity_check').fetchall() == [('ok',)]
"
        done
        touch a b c d
        "#,
        rows = rounds(150, 15),
    ));
}

/// A compiler and make live from times: nothing is built twice, and what depends on a change is.
#[test]
fn a_c_program_is_built_rebuilt_and_run() {
    works_and_is_kept(&format!(
        r#"
        files={files}
        echo '#define ANSWER 40' > answer.h
        for n in $(seq $files); do printf '#include "answer.h"\nint f%s(void) {{ return ANSWER / 40; }}\n' $n > f$n.c; done
        {{ echo '#include <stdio.h>'; for n in $(seq $files); do echo "int f$n(void);"; done
          echo 'int main(void) {{ int sum = 0;'; for n in $(seq $files); do echo "sum += f$n();"; done
          echo 'printf("%d\n", sum); return 0; }}'; }} > main.c
        cat > Makefile <<'M'
OBJECTS = $(patsubst %.c,%.o,$(wildcard *.c))
program: main.o libf.a ; gcc -o $@ main.o libf.a
libf.a: $(filter-out main.o,$(OBJECTS)) ; ar rcs $@ $^
%.o: %.c answer.h ; gcc -O1 -c -o $@ $<
M
        make -s -j2; test "$(./program)" = $files; make -q
        sleep 0.02; echo '#define ANSWER 80' > answer.h; if make -q; then echo 'the change is not seen'; exit 1; fi
        make -s -j2; test "$(./program)" = $((2 * files)); make -q
        cp program copy; cmp program copy
        "#,
        files = rounds(24, 3),
    ));
}
