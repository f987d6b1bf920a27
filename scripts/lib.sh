# shellcheck shell=bash
# What the scripts here share; to be sourced under `set -euo pipefail`.
# The package lists are Debian 12's names; only scripts read them.
# shellcheck disable=SC2034 # used by the scripts that source this file

# To compile: RocksDB's C++ library, libdevmapper's headers, and libclang for the bindings to both.
BUILD_PACKAGES=(gcc g++ libc6-dev pkg-config clang libclang-dev librocksdb-dev libdevmapper-dev)
# To run the daemon and look at what it does.
RUN_PACKAGES=(fuse3 e2fsprogs dmsetup thin-provisioning-tools librocksdb7.8)
# To run the tests: the guest, tools that compare trees, containerd's own snapshotter suite, containers.
GUEST_PACKAGES=(user-mode-linux busybox-static e2fsprogs util-linux patchelf)
TEST_PACKAGES=("${RUN_PACKAGES[@]}" "${GUEST_PACKAGES[@]}"
    acl attr rsync git golang-go golang-github-containerd-containerd-dev
    containerd runc systemd
    python3 python3-yaml python3-venv libarchive-tools zstd xfsprogs libcap2-bin cpio
    make stress-ng bindfs)
# Suites written by others, as crates.io has them: NAME@VERSION, each a program of that name.
TEST_TOOLS=(pjdfstest@0.2.2 fsx@0.3.2)

# Everything the scripts say goes to stderr: stdout belongs to the command they run.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# need_packages PKG... installs what is missing, and asks for nothing when all is there.
# THINFS_NO_INSTALL=1 trusts the caller: for other distributions and locked-down machines.
need_packages() {
    local package missing=() as_root=()
    [[ -z ${THINFS_NO_INSTALL:-} ]] || return 0
    command -v apt-get >/dev/null ||
        die "not a Debian system: install what matches '$*', then set THINFS_NO_INSTALL=1"
    for package; do
        # "installed" exactly: a removed package keeps a record with its configuration files.
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
            missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)); then
        command -v sudo >/dev/null || die "root or sudo is needed to install: ${missing[*]}"
        as_root=(sudo)
    fi
    say "installing ${missing[*]}"
    # The lock timeout waits for another apt instead of failing beside it.
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
        apt-get -qq -o DPkg::Lock::Timeout=600)
    "${apt[@]}" update >&2 || say "apt-get update failed; trying with the lists at hand"
    "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >&2 ||
        die "could not install ${missing[*]}"
}

# need_tools NAME@VERSION... installs programs from crates.io below the cache directory, each once.
need_tools() {
    local tool root
    root=$(cache_dir)/tools
    for tool; do
        ! grep -qsF "\"${tool/@/ } " "$root/.crates.toml" || continue
        say "installing $tool"
        # A build directory of its own: RUSTFLAGS and the profile are not the project's.
        env -u RUSTFLAGS CARGO_TARGET_DIR="$root/build" cargo install --quiet --locked --root "$root" "$tool" ||
            die "could not install $tool with cargo"
    done
    rm -rf "$root/build"
}

# Everything we leave on a machine outside the clone is below this one directory.
cache_dir() { printf '%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}/thinfs"; }

# Kubernetes's schema with a program that checks files against it; Debian has none. For the tests of scripts/kubernetes.
KUBERNETES_VALIDATE=kubernetes-validate==1.34.1
schema_checker() {
    local dir
    dir=$(cache_dir)/$KUBERNETES_VALIDATE
    if [[ ! -e $dir/complete && -z ${THINFS_NO_INSTALL:-} ]]; then
        say "installing $KUBERNETES_VALIDATE"
        /usr/bin/python3 -m venv --clear "$dir" >&2 &&
            "$dir/bin/pip" install --quiet --disable-pip-version-check "$KUBERNETES_VALIDATE" >&2 &&
            touch "$dir/complete" || die "could not install $KUBERNETES_VALIDATE with pip"
    fi
    # Without it the tests look for the program on the path.
    [[ ! -e $dir/complete ]] || export THINFS_KUBERNETES_VALIDATE=$dir/bin/kubernetes-validate
}

# fetch_packages SUITE DIR PKG... unpacks packages of another Debian suite below DIR, from the mirror that this machine's
# apt uses, checked against Debian's keys. Nothing of the system changes.
fetch_packages() {
    local suite=$1 dir=$2 mirror apt package
    shift 2
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' \
        'Component: main' | grep -v security | head -n 1) && [[ $mirror ]] || return 1
    mkdir -p "$dir"/apt/lists/partial "$dir"/apt/cache/archives/partial
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
        "$mirror" "$suite" >"$dir/apt/sources.list"
    apt=(timeout 300 apt-get -qq -o "Dir::Etc::SourceList=$dir/apt/sources.list"
        -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$dir/apt/lists"
        -o "Dir::Cache=$dir/apt/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none)
    (cd "$dir/apt" && "${apt[@]}" update >&2 && "${apt[@]}" download "$@" >&2) || return 1
    for package in "$dir"/apt/*.deb; do dpkg-deb -x "$package" "$dir" || return 1; done
    rm -r "$dir/apt"
}

# other_containerd SUITE prints a directory with the containerd of another Debian suite; fetches it once.
other_containerd() {
    local suite=$1 dir
    dir=$(cache_dir)/containerd-$suite
    if [[ ! -e $dir/complete ]]; then
        say "fetching the containerd of Debian $suite (30 MB, once)"
        rm -rf "$dir"
        mkdir -p "$dir"
        fetch_packages "$suite" "$dir" containerd || die "could not fetch the containerd of Debian $suite"
        touch "$dir/complete"
    fi
    printf '%s\n' "$dir/usr/bin"
}

# One target directory for all clones, outside them: a fresh clone starts with a warm build.
target_dir() {
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$(cache_dir)/target}"
}
