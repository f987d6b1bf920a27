# A filesystem in a file in here.
set -e
cd "$1"
truncate -s 32M image
mkfs.ext4 -q -E lazy_itable_init=0 image
mkdir at
mount -o loop image at
trap 'umount at' EXIT
for n in $(seq 200); do head -c 20000 /dev/zero | tr '\0' "$((n % 10))" > "at/$n"; done
rm at/1??
sync -f at
df --output=itotal at | tail -1
umount at
trap - EXIT
e2fsck -fn image > report 2>&1 && echo clean
mount -o loop,ro image at
trap 'umount at' EXIT
find at -type f | wc -l
cat at/* 2>/dev/null | md5sum
