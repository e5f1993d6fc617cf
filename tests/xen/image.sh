#!/bin/sh
# Builds what the Xen lab boots, from Debian 12 packages only, and prints the directory that holds it:
#   dom0.img      ext4, dom0's root: Xen's tools, a kernel, NBD servers, fio, the daemon's libraries
#   dom0.initrd   finds dom0.img, mounts the host's share on /lab and hands over to /lab/dom0/init
#   xen, vmlinuz  Xen as the 32-bit multiboot file that QEMU loads, and the kernel of dom0 and guests
#   (in dom0.img) /guest/base.cpio, /guest/fio.cpio   the guest's initramfs without any test of ours
# Nothing that this project compiles or a test says is in here: a change of those rebuilds nothing.
# The name of the directory carries a hash of this file, so a change of this file builds anew. A directory
# gets its name only when it is whole; what an interrupted build leaves has another name and is swept.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${XEN_CACHE:-$(cd "$here/../.." && pwd)/build/xen}
suite=bookworm   # Xen 4.17 is what Debian 12 has

packages=xen-utils-4.17,xen-utils-common,xenstore-utils,xen-hypervisor-4.17-amd64,grub-xen-host
packages=$packages,linux-image-amd64,kmod,busybox-static,iproute2,procps,util-linux,e2fsprogs,fdisk
packages=$packages,nbdkit,nbd-client,libnbd-bin,fio,strace,qemu-system-xen
packages=$packages,libnbd0,libev4,libinih1,libsystemd0,libjansson4,libmicrohttpd12,libseccomp2

# Whole families of modules that neither dom0 nor a guest can meet here: half of the image otherwise.
useless_modules='sound drivers/gpu drivers/media drivers/net drivers/infiniband drivers/iio drivers/staging
    drivers/usb drivers/hid drivers/mtd drivers/scsi drivers/platform drivers/hwmon drivers/power
    drivers/isdn drivers/comedi drivers/thunderbolt drivers/i2c drivers/mfd drivers/leds drivers/bluetooth
    net/mac80211 net/wireless net/bluetooth net/netfilter fs/btrfs fs/xfs fs/ocfs2 fs/gfs2 fs/ceph fs/nfs
    fs/nfsd fs/smb fs/cifs fs/f2fs fs/jfs fs/reiserfs'

say() { echo "xen image: $*" >&2; }
die() { say "$*"; exit 1; }

need_host_packages() {
    want=
    for pair in mmdebstrap:mmdebstrap mke2fs:e2fsprogs depmod:kmod cpio:cpio; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || want="$want ${pair#*:}"
    done
    [ -n "$want" ] || return 0
    say "installing on this machine:$want"
    # shellcheck disable=SC2086
    { apt-get update -q && apt-get install -qy --no-install-recommends $want; } >&2 ||
        die "could not install:$want"
}

# The host's own way to Debian's archive (a mirror, a proxy, a snapshot), as one-line sources.
sources() {
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' |
        awk -v s="$suite" '$2 == s || index($2, s "-") == 1 { print "deb " $0 }' | sort -u >"$1"
    # A host with another release, or one that never ran apt-get update.
    grep -q " $suite main" "$1" || cat >"$1" <<END
deb http://deb.debian.org/debian $suite main
deb http://deb.debian.org/debian-security $suite-security main
END
}

make_root() {
    sources "$part/sources"
    set -- --variant=minbase --include="$packages" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Retries "5"'
    for family in $useless_modules; do
        set -- "$@" --dpkgopt="path-exclude=/lib/modules/*/kernel/$family/*"
    done
    # INITRD=No: the kernel's package need not build Debian's initramfs, we have our own.
    # --mode=root: the files must have their real owners where mke2fs reads them.
    INITRD=No mmdebstrap --mode=root "$@" "$suite" "$part/root" "$part/sources" >"$part/mmdebstrap.log" 2>&1 || {
        tail -n 20 "$part/mmdebstrap.log" >&2
        die "mmdebstrap failed"
    }
}

# copy_modules TREE MODULE...: the modules, what they need, and the order to insmod them in (/modules).
copy_modules() {
    tree=$1; shift
    : >"$tree/modules"
    for module in "$@"; do
        modprobe -S "$kver" -d "$part/root" --show-depends "$module" || die "no module $module"
    done >"$part/modprobe.out"
    awk '$1 == "insmod" && !seen[$2]++ { print $2 }' "$part/modprobe.out" >"$part/modules.list"
    while read -r path; do
        cp "$path" "$tree/lib/"
        echo "/lib/${path##*/}" >>"$tree/modules"
    done <"$part/modules.list"
}

base_tree() {
    mkdir -p "$1/bin" "$1/lib" "$1/dev" "$1/proc" "$1/sys" "$1/tmp" "$1/mnt" "$1/lib64"
    cp "$part/root/bin/busybox" "$1/bin/"
    for applet in $("$1/bin/busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$1/bin/$applet"
    done
    mknod "$1/dev/console" c 5 1
}

# copy_program TREE PATH...: Debian's programs with every library that ldd names, at the same paths.
copy_program() {
    tree=$1; shift
    for program in "$@"; do
        echo "$program"
        chroot "$part/root" ldd "$program" >"$part/ldd.out" || die "no $program"
        grep -o '/[^ ]*' "$part/ldd.out"
    done >"$part/files.all"
    sort -u "$part/files.all" >"$part/files.list"
    while read -r path; do
        [ -e "$tree$path" ] && continue
        mkdir -p "$tree${path%/*}"
        cp -L "$part/root$path" "$tree$path"
    done <"$part/files.list"
}

# Not compressed: unpacking is what an emulated CPU is slow at.
pack() { (cd "$1" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) >"$2"; }

make_dom0_initrd() {
    tree=$part/dom0
    base_tree "$tree"
    mkdir "$tree/root"
    copy_modules "$tree" virtio_pci virtio_blk ext4 9pnet_virtio 9p
    cat >"$tree/init" <<'END'
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod "$module" || echo "insmod $module failed"; done </modules
n=0
while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
mount -t ext4 /dev/vda /root || echo "BLKGATE-BOOT: no root disk"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=131072,cache=none lab /root/lab || echo "BLKGATE-BOOT: no share"
for d in dev proc sys; do mount --move /$d /root/$d; done
exec switch_root /root /bin/sh /lab/dom0/init
END
    chmod +x "$tree/init"
    pack "$tree" "$part/dom0.initrd"
}

make_guest() {
    tree=$part/guest
    base_tree "$tree"
    copy_modules "$tree" xen-blkfront ext4
    # Programs are found by PATH in /sbin and /usr/sbin too; mke2fs has a configuration of its own.
    copy_program "$tree" /sbin/mke2fs /sbin/e2fsck /sbin/blkdiscard /sbin/blockdev
    mkdir -p "$tree/etc" "$part/root/guest"
    cp "$part/root/etc/mke2fs.conf" "$tree/etc/"
    pack "$tree" "$part/root/guest/base.cpio"
    # fio pulls in the libraries of every storage system: 90 MB, only for guests that ask for it.
    copy_program "$part/fio" /usr/bin/fio
    pack "$part/fio" "$part/root/guest/fio.cpio"
}

build() {
    need_host_packages
    [ "$(id -u)" = 0 ] || die "building needs root (file owners, device nodes): run it once as root"
    PATH=$PATH:/usr/sbin:/sbin
    part=$image.part.$$
    trap 'rm -rf "$part"' EXIT
    trap 'exit 1' INT TERM HUP
    mkdir -p "$part"
    say "building $image from $suite's packages: 3 to 5 minutes"
    make_root
    set -- "$part"/root/boot/vmlinuz-*
    kernel=$1
    kver=${kernel##*/vmlinuz-}
    say "kernel $kver; packing"
    cp "$kernel" "$part/vmlinuz"
    set -- "$part"/root/boot/xen-4.17-amd64.gz
    gzip -dc "$1" >"$part/xen"
    make_dom0_initrd
    make_guest
    cp "$part/vmlinuz" "$part/root/guest/vmlinuz"
    mkdir -p "$part/root/lab"
    rm -rf "$part"/root/boot/* "$part"/root/var/cache/apt/* "$part"/root/var/lib/apt/lists/*
    size=$(($(du -sm --apparent-size "$part/root" | cut -f1) + 400))
    mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$part/root" "$part/dom0.img" "${size}M" >&2
    rm -rf "$part/root" "$part/dom0" "$part/guest" "$part/fio"
    mv -T "$part" "$image" 2>/dev/null || [ -e "$image/xen" ] || die "could not name $image"
}

key=$(sha256sum "$here/image.sh" | cut -c1-12)
image=$cache/image-$key
mkdir -p "$cache"
# Two runs at once: the second waits for the first one's image instead of building its own.
exec 9>"$cache/image.lock"
flock -w 1200 9 || die "another build of the image does not end"
if [ ! -d "$image" ]; then
    build
    for old in "$cache"/image-*; do
        [ "$old" = "$image" ] || rm -rf "$old"
    done
    say "built in $image"
fi
echo "$image"
