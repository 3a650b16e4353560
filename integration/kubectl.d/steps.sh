# How a step is passed and told of. Sourced by integration/kubectl.

passed=0 failed=() skipped=() namespace=default

k() { "$kubectl" "$@"; }

# A namespace for a part, so that parts do not meet; it is the kubeconfig's own.
use_namespace() {
    namespace=$1
    k create namespace "$namespace" > /dev/null 2>&1 || true
    k config set-context --current --namespace="$namespace" > /dev/null
}

pass() { passed=$((passed + 1)); printf '   %s%s%s\n' "$dim" "$1" "$plain"; }
fail() { # NAME TEXT
    failed+=("$1")
    printf '   %sFAILED%s %s\n' "$red" "$plain" "$1"
    printf '%s\n' "$2" | head -n 40 | sed 's/^/      /'
}

# What a step did: its output, both streams, in $said.
said=
name_of() { local text="kubectl $*"; text=${text//$'\n'/ }; printf '%s' "${text:0:150}"; }
run() { said=$(timeout $((60 * ${RRUN_TIME_SCALE:-1})) "$kubectl" "$@" 2>&1); }

says() { grep -qzP -- "$1" < <(printf '%s\0' "$said"); }

# want PATTERN WORDS...: kubectl WORDS succeeds and says PATTERN (extended, over all lines; - for anything).
want() {
    local pattern=$1 status=0
    shift
    run "$@" || status=$?
    if [ $status = 0 ] && { [ "$pattern" = - ] || says "$pattern"; }; then
        pass "$(name_of "$@")"
    else
        fail "$(name_of "$@")" "(status $status, wanted: $pattern) $said"
    fi
}

# refused PATTERN WORDS...: kubectl WORDS fails and says PATTERN.
refused() {
    local pattern=$1 status=0
    shift
    run "$@" || status=$?
    if [ $status != 0 ] && says "$pattern"; then
        pass "$(name_of "$@"): refused"
    else
        fail "$(name_of "$@")" "(status $status, a refusal was wanted: $pattern) $said"
    fi
}

# soon PATTERN WORDS...: as want, tried for 20 seconds.
soon() {
    local pattern=$1 limit=$((SECONDS + ${patience:-20} * ${RRUN_TIME_SCALE:-1}))
    shift
    until run "$@" && says "$pattern"; do
        [ $SECONDS -lt $limit ] || { fail "$(name_of "$@")" "(wanted within ${patience:-20} s: $pattern) $said"; return 0; }
        sleep 0.1
    done
    pass "$(name_of "$@")"
}

# that NAME COMMAND...: any command succeeds.
that() {
    local name=$1 status=0
    shift
    said=$("$@" 2>&1) || status=$?
    if [ $status = 0 ]; then pass "$name"; else fail "$name" "(status $status) $said"; fi
}

# since_minor N WORDS...: the rest is a step for kubectl 1.N and later.
since_minor() {
    local needed=$1
    shift
    if [ "$minor" -ge "$needed" ]; then
        "$@"
    else
        skipped+=("$(name_of "${@:3}") (kubectl 1.$needed)")
    fi
}

# served PLURAL WORDS...: the rest is a step for a server that has the kind.
served() {
    local plural=$1
    shift
    if grep -qE "^$plural(\.|\$)" <<< "$(k api-resources -o name)"; then "$@"; else skipped+=("$(name_of "${@:3}") (no $plural)"); fi
}

# A manifest from standard input, into a file of this name; $image stands in it for the image.
manifest() { sed "s#IMAGE#$image#" > "$work/$1.yaml"; }
