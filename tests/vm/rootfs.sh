#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# rootfs.sh ROOT PUBLIC_KEY MODULES: turn a minimal Debian tree into a test machine.
#
#   ROOT        the unpacked tree; everything written by this script goes there
#   PUBLIC_KEY  the key file that may log in as root and as the user "ops"
#   MODULES     lib/modules/<version> of the kernel that the machine will boot
#
# Called by machine.py as root, or as root of a user namespace of its own.
# The aim is a short boot under plain software emulation, where every process
# costs milliseconds, while systemd stays real: reboots, units and timers are
# what the collection is tested with.
set -euo pipefail
export LC_ALL=C

root=$1 public_key=$2 modules=$3
here=$(cd "$(dirname "$0")" && pwd)
units=$root/etc/systemd/system

mask() {
    local unit
    for unit in "$@"; do
        rm -f "$units/$unit"
        ln -s /dev/null "$units/$unit"
    done
}

wanted_by_sysinit() {
    mkdir -p "$units/sysinit.target.wants"
    ln -sf "../$1" "$units/sysinit.target.wants/$1"
}

install_modules() {
    local version
    version=$(basename "$modules")
    mkdir -p "$root/usr/lib/modules"
    cp -r "$modules" "$root/usr/lib/modules/"
    chown -R 0:0 "$root/usr/lib/modules"
    # Emulated xz is slow: uncompress here, once.
    find "$root/usr/lib/modules" -name '*.ko.xz' -print0 | xargs -0 -r -P 2 -n 64 xz -d -q
    chroot "$root" depmod -a "$version"
}

configure_identity() {
    echo vm >"$root/etc/hostname"
    printf '127.0.0.1 localhost vm\n::1 localhost\n' >"$root/etc/hosts"
    # QEMU's user-mode network answers DNS here.
    rm -f "$root/etc/resolv.conf"
    echo 'nameserver 172.31.254.3' >"$root/etc/resolv.conf"
    # A fixed id: an empty one makes every boot a "first boot" with preset units.
    echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
    : >"$root/etc/fstab" # the initial RAM disk has mounted the only file system
}

# root for speed, "ops" with sudo for tests of privilege escalation.
configure_users() {
    chroot "$root" useradd --create-home --shell /bin/bash ops
    echo 'ops ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/ops"
    chmod 0440 "$root/etc/sudoers.d/ops"
    local home
    for home in root home/ops; do
        mkdir -p "$root/$home/.ssh"
        cp "$public_key" "$root/$home/.ssh/authorized_keys"
        chmod 0700 "$root/$home/.ssh"
        chmod 0600 "$root/$home/.ssh/authorized_keys"
    done
    chown -R 0:0 "$root/root/.ssh"
    chroot "$root" chown -R ops:ops /home/ops/.ssh
    # No PAM: an account with a locked password ("!") would be refused.
    chroot "$root" usermod --password '*' ops
}

configure_ssh() {
    local version drop_in=$root/etc/ssh/sshd_config.d/00-vm.conf
    rm -f "$root"/etc/ssh/ssh_host_*
    ssh-keygen -q -t ed25519 -N '' -C root@vm -f "$root/etc/ssh/ssh_host_ed25519_key"
    chown 0:0 "$root"/etc/ssh/ssh_host_*
    sed -i 's/^Subsystem/#&/' "$root/etc/ssh/sshd_config"
    mkdir -p "$root/etc/ssh/sshd_config.d"
    # PAM and DNS are the two slow parts of a login. Ansible opens many sessions.
    cat >"$drop_in" <<'CONF'
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
PrintLastLog no
X11Forwarding no
MaxSessions 100
MaxStartups 100
Subsystem sftp internal-sftp
CONF
    # From 9.8 on, sshd locks out an address that connects without logging in,
    # and waiting for the banner is just that.
    version=$(dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${Version}' openssh-server)
    if dpkg --compare-versions "$version" ge 1:9.8; then
        echo 'PerSourcePenalties no' >>"$drop_in"
    fi
    # Started with the first units and without the "sshd -t" before it.
    rm -f "$units/sshd.service" "$units/multi-user.target.wants/ssh.service"
    cat >"$units/ssh.service" <<'UNIT'
[Unit]
Description=OpenSSH server, early
DefaultDependencies=no
After=vm-identity.service
Conflicts=shutdown.target
Before=shutdown.target
[Service]
Type=notify
RuntimeDirectory=sshd
RuntimeDirectoryMode=0755
ExecStart=/usr/sbin/sshd -D
ExecReload=/bin/kill -HUP $MAINPID
KillMode=process
Restart=on-failure
[Install]
WantedBy=sysinit.target
Alias=sshd.service
UNIT
    wanted_by_sysinit ssh.service
}

configure_network() {
    install -m 0755 "$here/identity.sh" "$root/usr/local/sbin/vm-identity"
    cat >"$units/vm-identity.service" <<'UNIT'
[Unit]
Description=Name and addresses of this machine
DefaultDependencies=no
Before=network.target network-online.target ssh.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/vm-identity boot
[Install]
WantedBy=sysinit.target
UNIT
    wanted_by_sysinit vm-identity.service
}

# Each of these is work that a throw-away machine with one root disk, no
# console, no TPM and no packages to update never profits from.
mask_units() {
    mask systemd-random-seed.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount \
        ldconfig.service systemd-journal-catalog-update.service systemd-update-done.service \
        systemd-firstboot.service systemd-hwdb-update.service systemd-machine-id-commit.service \
        systemd-pcrmachine.service systemd-pcrphase.service systemd-pcrphase-sysinit.service \
        systemd-pcrextend.socket systemd-pcrlock.socket systemd-tpm2-setup.service \
        systemd-tpm2-setup-early.service systemd-hibernate-clear.service \
        systemd-udev-trigger.service systemd-udev-load-credentials.service \
        systemd-journal-flush.service systemd-pstore.service systemd-rfkill.socket \
        kmod-static-nodes.service modprobe@.service \
        systemd-tmpfiles-setup-dev-early.service systemd-tmpfiles-setup-dev.service \
        systemd-tmpfiles-clean.timer systemd-remount-fs.service remote-fs.target \
        dev-hugepages.mount dev-mqueue.mount run-lock.mount \
        sys-fs-fuse-connections.mount sys-kernel-config.mount \
        systemd-ask-password-console.path systemd-ask-password-wall.path \
        systemd-logind.service systemd-user-sessions.service systemd-hostnamed.socket \
        systemd-creds.socket systemd-sysext.socket systemd-initctl.socket \
        getty.target getty-static.service \
        apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \
        sshd-keygen.service ssh.socket nftables.service
    rm -rf "$units/getty.target.wants"

    # Generators are processes started one by one before the first unit.
    local generator
    mkdir -p "$root/etc/systemd/system-generators"
    for generator in "$root"/usr/lib/systemd/system-generators/*; do
        [ -e "$generator" ] || continue
        ln -sf /dev/null "$root/etc/systemd/system-generators/${generator##*/}"
    done
    ln -sf /usr/lib/systemd/system/multi-user.target "$units/default.target"
}

configure_systemd() {
    mkdir -p "$root/etc/systemd/journald.conf.d" "$root/etc/systemd/system.conf.d"
    # The journal lives in memory, and still records what units print.
    printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\n' \
        >"$root/etc/systemd/journald.conf.d/vm.conf"
    printf '[Manager]\nDefaultTimeoutStopSec=5s\nShowStatus=no\n' \
        >"$root/etc/systemd/system.conf.d/vm.conf"
    # The masked networkd would otherwise still be enabled by preset.
    rm -f "$units"/systemd-networkd*
    # "Nothing changed in /usr since": no catalogue, hwdb or ld.so cache rebuild.
    touch "$root/etc/.updated" "$root/var/.updated"
}

install_modules
configure_identity
configure_users
configure_ssh
configure_network
mask_units
configure_systemd
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin
