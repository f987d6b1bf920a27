package main

import (
	"archive/tar"
	"strings"
	"time"
)

// allLayers are the ten layers, bottom first. Each is one kind of trouble.
func allLayers(p programs, bulk int) []func(*layer) {
	return []func(*layer){
		func(l *layer) { base(l, p) },
		func(l *layer) { bulkData(l, bulk) },
		linksAndDevices,
		func(l *layer) { privileges(l, p) },
		names,
		func(l *layer) { numbers(l, bulk) },
		whiteouts,
		opaques,
		func(l *layer) { bulkChanges(l, bulk) },
		again,
	}
}

// changed repeats the entries of directories that a layer changes something in, as image builders do: only then is
// the directory's time the same whoever unpacks the layer.
func changed(l *layer, dirs ...string) {
	for _, dir := range dirs {
		l.dir(dir, 0o755)
	}
}

// base is a small system: a shell with its applets, accounts, a world-writable /tmp, the probe.
func base(l *layer, p programs) {
	for _, dir := range []string{"bin", "dev", "etc", "proc", "root", "run", "sys", "usr", "usr/bin", "var", "var/lib"} {
		l.dir(dir, 0o755)
	}
	l.dir("tmp", 0o1777)
	l.file("bin/busybox", 0o755, p.busybox)
	for _, applet := range strings.Fields("sh cat ls cp mv rm ln mkdir rmdir chmod chown touch stat id sync sleep true echo test dd find tar sha256sum mknod mkfifo flock head wc df") {
		l.symlink("bin/"+applet, "busybox")
	}
	l.file("usr/bin/probe", 0o755, p.probe)
	l.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n")
	l.text("etc/group", "root:x:0:\nuser:x:1000:\n")
	l.text("etc/hostname", "awkward\n")
	l.dir("a", 0o755)
}

// bulkData is a few large files and many small ones.
func bulkData(l *layer, mib int) {
	l.dir("bulk", 0o755)
	l.dir("bulk/small", 0o755)
	for i := 0; i < 8; i++ {
		l.random(numbered("bulk/large-", i), int64(i), mib<<20/10)
	}
	for i := 0; i < 400; i++ {
		l.random(numbered("bulk/small/", i), int64(1000+i), mib<<20/5/400+i)
	}
}

// linksAndDevices is everything that isn't a plain file.
func linksAndDevices(l *layer) {
	changed(l, "a")
	l.dir("a/links", 0o755)
	l.text("a/links/first", "one inode, four names\n")
	l.hardlink("a/links/second", "a/links/first")
	l.dir("a/links/below", 0o755)
	l.hardlink("a/links/below/third", "a/links/first")
	l.hardlink("a/links/fourth", "a/links/second")
	l.symlink("a/links/dangling", "/nowhere/at/all")
	l.symlink("a/links/loop", "loop")
	l.symlink("a/links/long", strings.Repeat("../links/", 100)+"first")
	// A link in the way: files below it must land in the image's /a/links, not in the host's.
	l.symlink("a/absolute", "/a/links")
	l.text("a/absolute/through-a-link", "lands in /a/links\n")
	l.dir("a/nodes", 0o755)
	node := func(name string, kind byte, major, minor, mode int64) {
		l.entry(tar.Header{Typeflag: kind, Name: "a/nodes/" + name, Devmajor: major, Devminor: minor, Mode: mode}, nil)
	}
	node("null", tar.TypeChar, 1, 3, 0o666)
	node("loop", tar.TypeBlock, 7, 250, 0o660)
	node("large", tar.TypeChar, 300, 70000, 0o600)
	node("fifo", tar.TypeFifo, 0, 0, 0o640)
}

// Attributes as the kernel stores them.
const (
	// cap_net_raw+ep, VFS_CAP_REVISION_2.
	netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	// user::rw-, user:1000:r--, group::r--, mask::r--, other::---
	accessACL = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
	// user::rwx, group::r-x, other::---
	defaultACL = "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x04\x00\x05\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
)

// privileges are modes, owners, capabilities, lists and attributes that a lax copy loses.
func privileges(l *layer, p programs) {
	changed(l, "a", "usr", "usr/bin")
	l.dir("a/privileges", 0o755)
	with := func(name string, mode int64, body []byte, xattrs ...string) {
		records := map[string]string{}
		for i := 0; i < len(xattrs); i += 2 {
			records["SCHILY.xattr."+xattrs[i]] = xattrs[i+1]
		}
		l.entry(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, PAXRecords: records}, body)
	}
	l.file("usr/bin/suid-probe", 0o4755, p.probe)
	with("usr/bin/cap-probe", 0o755, p.probe, "security.capability", netRaw)
	l.file("a/privileges/sgid", 0o2755, p.probe[:4096])
	l.file("a/privileges/none", 0, []byte("mode 0000\n"))
	l.dir("a/privileges/sgid-dir", 0o2775)
	l.dir("a/privileges/sticky", 0o1777)
	l.dir("a/privileges/closed", 0o700)
	with("a/privileges/closed/acl", 0o640, []byte("access list\n"), "system.posix_acl_access", accessACL)
	with("a/privileges/xattrs", 0o644, []byte("attributes\n"), "user.plain", "value", "user.binary", "a\x01\xffb", "user.empty", "")
	l.entry(tar.Header{
		Typeflag: tar.TypeDir, Name: "a/privileges/inherits/", Mode: 0o750, Uid: 1000, Gid: 1000,
		PAXRecords: map[string]string{"SCHILY.xattr.system.posix_acl_default": defaultACL, "SCHILY.xattr.user.dir": "d"},
	}, nil)
}

// names are file names that break scripts, terminals and fixed buffers.
func names(l *layer) {
	changed(l, "a")
	l.dir("a/names", 0o755)
	odd := []string{
		"ünïcödé", "日本語", "e\u0301 decomposed", "\u00e9 composed", "emoji 😀", " leading and trailing ", "new\nline", "tab\t",
		"back\\slash", "quote\"'`", "-rf", "...", "%2F", "semi;colon&", "*", strings.Repeat("l", 255), strings.Repeat("日", 85), "wh.like", "..wh",
	}
	for _, name := range odd {
		l.text("a/names/"+name, name)
	}
	// Latin-1, no UTF-8: only the GNU format has room for it.
	l.entry(tar.Header{Typeflag: tar.TypeReg, Name: "a/names/latin-\xe9\xff", Mode: 0o644, Format: tar.FormatGNU}, []byte("bytes"))
	deep := "a/deep"
	l.dir(deep, 0o755)
	for i := 0; i < 60; i++ {
		deep += "/" + numbered("a-directory-with-a-long-name-", i)
		l.dir(deep, 0o755)
	}
	l.text(deep+"/bottom", "sixty down\n")
	l.dir("a/wide", 0o755)
	for i := 0; i < 1000; i++ {
		l.text(numbered("a/wide/", i), "")
	}
}

// numbers are sizes, owners and times at the edge of their fields.
func numbers(l *layer, mib int) {
	changed(l, "a")
	l.dir("a/numbers", 0o755)
	at := func(name string, t time.Time) {
		l.entry(tar.Header{Typeflag: tar.TypeReg, Name: "a/numbers/" + name, Mode: 0o644, ModTime: t}, []byte(name))
	}
	at("nanoseconds", time.Unix(1234567890, 123456789))
	at("epoch", time.Unix(0, 0))
	at("before-1970", time.Unix(-86400, 0))
	at("after-2038", time.Unix(4102444800, 999999999))
	owner := func(name string, uid, gid int) {
		l.entry(tar.Header{Typeflag: tar.TypeReg, Name: "a/numbers/" + name, Mode: 0o644, Uid: uid, Gid: gid}, nil)
	}
	owner("large-owner", 3_000_000, 4_000_000_000)
	owner("nobody", 65534, 65534)
	size := int64(2+mib/4) << 20
	l.sparse("a/numbers/sparse", size, island{1 << 20, strings.Repeat("x", 4096)}, island{size - 5000, "y"})
	l.file("a/numbers/zeros", 0o644, make([]byte, 1<<20))
}

// whiteouts remove names of lower layers, of each type, and change types.
func whiteouts(l *layer) {
	changed(l, "a", "a/links", "a/names", "a/nodes", "a/privileges", "bulk", "bulk/small")
	l.whiteout("a/links", "second")
	l.whiteout("a/links", "dangling")
	l.whiteout("a/nodes", "loop")
	l.whiteout("a", "wide")
	l.whiteout("a/names", "new\nline")
	l.whiteout("bulk/small", "399")
	l.whiteout("bulk", "large-007")
	// A directory where a file was, a file where a directory was, and both without a whiteout of their own.
	l.dir("a/names/*", 0o755)
	l.text("a/names/*/inside", "a file became a directory\n")
	l.text("a/privileges/sticky", "a directory became a file\n")
	// One of three remaining names of an inode is replaced: the others must keep the old content.
	l.text("a/links/fourth", "not the same inode any more\n")
}

// opaques hide directories' lower content; the marker comes first, last and in between.
func opaques(l *layer) {
	changed(l, "a", "a/links")
	l.dir("a/deep", 0o711)
	l.opaque("a/deep")
	l.text("a/deep/instead", "sixty directories are gone\n")
	l.dir("a/links/below", 0o700)
	l.text("a/links/below/before-the-marker", "stays\n")
	l.opaque("a/links/below")
	l.text("a/links/below/after-the-marker", "stays\n")
}

// bulkChanges is what a package upgrade does: some files new, some replaced, some with another mode.
func bulkChanges(l *layer, mib int) {
	changed(l, "bulk", "bulk/small")
	for i := 0; i < 2; i++ {
		l.random(numbered("bulk/large-", i), int64(100+i), mib<<20/10)
	}
	for i := 0; i < 400; i += 7 {
		if i == 399 {
			continue // removed two layers below
		}
		body := strings.Repeat("replaced ", mib<<20/5/400/9)
		l.file(numbered("bulk/small/", i), 0o600, []byte(body))
	}
	l.random("bulk/new", 7, mib<<20/20)
}

// again makes anew what was removed, as another type.
func again(l *layer) {
	changed(l, "a", "a/links", "a/names", "a/nodes", "bulk")
	l.dir("a/wide", 0o2750)
	l.text("a/wide/000", "one again\n")
	l.symlink("a/links/second", "first")
	l.symlink("bulk/large-007", "large-006")
	l.dir("a/nodes/loop", 0o755)
	l.entry(tar.Header{Typeflag: tar.TypeFifo, Name: "a/names/new\nline", Mode: 0o600}, nil)
}
