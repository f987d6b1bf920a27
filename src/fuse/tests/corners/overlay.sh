# An overlay whose layers are in here: copies up, whiteouts, opaque directories, renames, hard links.
set -e
cd "$1"
mkdir -p lower/dir/sub lower/gone upper work merged
echo lower > lower/dir/file
echo lower > lower/dir/removed
ln lower/dir/file lower/dir/hard
ln -s file lower/dir/link
setfattr -n user.kept -v value lower/dir/file
mount -t overlay overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" merged
trap 'umount merged' EXIT
cd merged
echo more >> dir/file
rm dir/removed
rm -r gone && mkdir gone && echo new > gone/new
mv dir/link dir/moved
mknod dir/device c 1 3
mkdir dir/made && mv dir/made dir/renamed
chmod 4755 dir/hard
show() {
    find . -printf '%P %y %m %s\n' | grep -v ' d ' | sort
    find . -type d -printf '%P %y %m\n' | sort
}
show
cat dir/file gone/new
getfattr --only-values -n user.kept dir/file; echo
cd ..
umount merged
trap - EXIT
echo upper:
cd upper
find . -printf '%P %y %m\n' | sort
getfattr --only-values -n trusted.overlay.opaque gone 2>/dev/null; echo
