#!/usr/bin/env bash
# install_packages.sh WHERE TOOL:PACKAGE...: installs the packages whose tools are missing. WHERE
# says what a check without them leaves out: "on aarch64", "in a browser".
# Where that is not allowed or not possible it says so, loudly, and succeeds: a machine without the
# right to install packages must still be able to run the whole check. The tests then name what
# they skip.
set -uo pipefail

where=$1
shift
missing=() packages=()
for pair in "$@"; do
    command -v "${pair%%:*}" > /dev/null && continue
    missing+=("${pair%%:*}")
    packages+=("${pair#*:}")
done
[ "${#missing[@]}" -eq 0 ] && exit 0

skip() {
    {
        echo "#################################################################################"
        echo "# NOT CHECKED $where: ${missing[*]} missing, and $1."
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
