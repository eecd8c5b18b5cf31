#!/usr/bin/env bash
# Installs what `make portable` runs aarch64 code with: a cross compiler and qemu's user mode.
# Where that is not allowed or not possible it says so, loudly, and succeeds: the rest of the check,
# AVX-512's code and 16 floats on AVX2, needs neither; and a machine without the right to install
# packages must still be able to run the whole check. The tests then name what they skip.
set -uo pipefail

tools=(qemu-aarch64-static aarch64-linux-gnu-g++)
packages=(qemu-user-static g++-aarch64-linux-gnu)

missing=()
for tool in "${tools[@]}"; do
    command -v "$tool" > /dev/null || missing+=("$tool")
done
[ "${#missing[@]}" -eq 0 ] && exit 0

skip() {
    {
        echo "#################################################################################"
        echo "# NOT CHECKED on aarch64: ${missing[*]} missing, and $1."
        echo "# To check it: apt-get install ${packages[*]}"
        echo "#################################################################################"
    } >&2
    exit 0
}

command -v apt-get > /dev/null || skip "there is no apt-get"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2> /dev/null || skip "this is neither root nor a user with passwordless sudo"
    as_root=(sudo -n)
fi
echo "installing ${packages[*]} (once)"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
timeout 60 "${as_root[@]}" apt-get update -qq > "$log" 2>&1 || true
timeout 240 "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" \
    >> "$log" 2>&1 || { tail -5 "$log" >&2; skip "apt-get could not install it"; }
