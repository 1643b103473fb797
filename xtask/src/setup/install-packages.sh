#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs the Debian packages named as arguments. Runs as root. No service is started (policy-rc.d, see invoke-rc.d(8)), and none
# that comes with the packages stays enabled: the tests start servers of their own.
set -eu

policy=/usr/sbin/policy-rc.d
work=$(mktemp -d)
saved=

restore() {
    if [ -n "$saved" ]; then mv -T "$saved" "$policy"; else rm -f "$policy"; fi
    rm -rf "$work"
}
installed() {
    dpkg-query --show --showformat='${binary:Package} ${db:Status-Status}\n' | sed -n 's/ installed$//p' | sort
}

if [ -e "$policy" ] || [ -L "$policy" ]; then
    saved=$(mktemp -u "$policy.XXXXXX")
    mv -T "$policy" "$saved"
fi
trap restore EXIT
trap 'exit 1' HUP INT TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
installed >"$work/before"
apt-get -o DPkg::Lock::Timeout=300 update --quiet
apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold install --quiet --yes --no-install-recommends "$@"
installed >"$work/after"

for package in $(comm -13 "$work/before" "$work/after"); do
    dpkg --listfiles "$package" | sed -n 's|^\(/usr\)\{0,1\}/lib/systemd/system/\([^/]*\.\(service\|socket\|timer\|path\)\)$|\2|p' |
        while read -r unit; do
            deb-systemd-helper disable "$unit" >/dev/null 2>&1 || true
        done
    dpkg --listfiles "$package" | sed -n 's|^/etc/init\.d/\([^/]*\)$|\1|p' |
        while read -r script; do
            update-rc.d "$script" disable >/dev/null 2>&1 || true
        done
done
