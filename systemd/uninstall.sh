#!/bin/sh
# Take Muster's services, program and users away. Configuration and data stay, unless you say
# --all: then every person, photo, event and key is gone for good.
#
#   sh systemd/uninstall.sh [--all]
#
# DESTDIR=/folder works below a folder.
set -eu
root=${DESTDIR:-}
units="edge-agent match-server match-server-ingest"

case ${1:-} in
'') all= ;;
--all) all=yes ;;
*) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
[ -n "$root" ] || [ "$(id -u)" = 0 ] || { printf 'Run this as root.\n' >&2; exit 1; }

if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    for unit in $units; do
        [ ! -e "/etc/systemd/system/$unit.service" ] || systemctl disable --now "$unit"
    done
fi
for unit in $units; do rm -f "$root/etc/systemd/system/$unit.service"; done
rm -f "$root/usr/lib/sysusers.d/muster.conf"
rm -rf "$root/opt/muster" "$root/var/lib/muster-models"
for command in match-server edge-agent face-models; do
    ! grep -qs muster-command "$root/usr/local/bin/$command" || rm -f "$root/usr/local/bin/$command"
done
if [ -n "$all" ]; then
    rm -rf "$root/etc/muster" "$root/var/lib/muster" "$root/var/lib/muster-agent"
    if [ -z "$root" ]; then
        for user in muster muster-agent; do
            if id "$user" >/dev/null 2>&1; then userdel "$user"; fi
        done
    fi
else
    printf 'Kept: %s (sh systemd/uninstall.sh --all takes them away)\n' \
        "/etc/muster /var/lib/muster /var/lib/muster-agent" >&2
fi
if [ -z "$root" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
