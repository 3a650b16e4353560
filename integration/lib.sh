# Shared by the commands of this folder: messages, steps with their times, paths.
# Source it; it runs nothing.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$repo/target}
bin=${RRUN_BIN_DIR:-$target/rrun-bin}

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
    bold='' dim='' red='' green='' plain=''
fi

# Seconds with one decimal since $1, which is an $EPOCHREALTIME.
since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

die() {
    printf '%s%s: %s%s\n' "$red" "${0##*/}" "$*" "$plain" >&2
    exit 1
}

# A numbered headline; `ok` closes it with the time it took.
step_number=0
step() {
    step_number=$((step_number + 1))
    step_began=$EPOCHREALTIME
    printf '\n%s%d. %s%s\n' "$bold" "$step_number" "$*" "$plain"
}
ok() { printf '   %sok%s %s(%s s)%s\n' "$green" "$plain" "$dim" "$(since "$step_began")" "$plain"; }

# Prints a command as a user would type it; `show` runs it too, and indents what it prints.
announce() { printf '   %s$ %s%s\n' "$dim" "$(pretty "$@")" "$plain"; }
show() {
    announce "$@"
    "$@" 2>&1 | sed 's/^/   /'
    return "${PIPESTATUS[0]}"
}
pretty() {
    local word out=
    for word in "$@"; do
        word=${word#"$bin/"}
        word=${word#"${work:-/nonexistent}/"}
        [ -n "$out" ] || case $word in pods) word=rrun-pods ;; image_tool) word=rrun-image ;; esac
        case $word in *[!A-Za-z0-9_./:=@,%+-]* | '') word="'$word'" ;; esac
        out+="$word "
    done
    printf '%s' "${out% }"
}

# Waits until the command succeeds, at most $2 seconds (times RRUN_TIME_SCALE); $1 says what for.
await() {
    local what=$1 limit=$(($2 * ${RRUN_TIME_SCALE:-1})) began=$SECONDS
    shift 2
    until "$@" > /dev/null 2>&1; do
        [ $((SECONDS - began)) -lt "$limit" ] || { echo "   waited $limit s in vain for: $what" >&2; return 1; }
        sleep 0.05
    done
}
