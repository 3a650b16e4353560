# Both daemons in $work, and the stand-in images. Sourced by integration/kubectl and integration/pressure.

pids=()
# Further options of rrun-pods serve. A machine that is nearly full of other things evicts nothing here.
[ -n "${serve+set}" ] || serve=(--eviction-hard none)
bridge=rrk$(($$ % 1000000))
store=$work/images
image=stand-in.test/web
image_tool() { "$bin/rrun-image" --store "$store" "$@"; }
pods() { "$bin/rrun-pods" --socket "$work/pods.sock" "$@"; }

free_port() {
    local port
    for port in $(shuf -n 50 -i 20000-32000); do
        (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || { echo "$port"; return; }
    done
}

# A busybox that serves its own name and version over HTTP, in two versions; :latest is the first.
make_images() {
    local layers=$work/layers v
    mkdir -p "$layers"/base/{bin,etc,tmp,root,proc,sys,dev} "$layers"/web/www/cgi-bin "$layers"/v{1,2}/etc
    cp "$(command -v busybox)" "$layers/base/bin/busybox"
    # One process for all of them: in the machine some 270 take minutes.
    (cd "$layers/base/bin" && ./busybox --list | perl -lne 'symlink "busybox", $_ or die "$_: $!\n" if $_ ne "busybox"')
    echo 'root:x:0:0:root:/root:/bin/sh' > "$layers/base/etc/passwd"
    echo 'root:x:0:' > "$layers/base/etc/group"
    chmod 1777 "$layers/base/tmp"
    printf '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n$(hostname) serves $(cat /etc/release)\\n"\n' \
        > "$layers/web/www/cgi-bin/index.cgi"
    chmod 755 "$layers/web/www/cgi-bin/index.cgi"
    stand_ins "$layers/web"
    for v in v1 v2; do
        echo $v > "$layers/$v/etc/release"
        image_tool build-layers --tag "$image:$v" --env PATH=/bin --cmd 'httpd -f -p 8080 -h /www' \
            "$layers/base" "$layers/web" "$layers/$v" > /dev/null
    done
    # What others' manifests call their images: see manifests.
    for v in $(sed -n 's/^ *-\{0,1\} *image: *//p' "$repo"/integration/manifests/others/*.yaml 2> /dev/null | sort -u); do
        image_tool tag "$image:v1" "${v//\"/}" > /dev/null
    done
}

# What others' manifests call inside their images.
stand_ins() { # LAYER
    mkdir -p "$1/bin"
    printf '#!/bin/sh\necho drained\n' > "$1/bin/nodetool"
    printf '#!/bin/sh\nexit 0\n' > "$1/bin/zookeeper-ready"
    printf '#!/bin/sh\nexit 0\n' > "$1/ready-probe.sh"
    printf '#!/bin/sh\nmkdir -p /var/lib/zookeeper/data && while :; do sleep 100; done\n' > "$1/bin/start-zookeeper"
    printf '#!/bin/sh\necho 3.14159265358979\n' > "$1/bin/perl"
    chmod 755 "$1"/bin/* "$1/ready-probe.sh"
}

world_up() {
    local port
    make_images
    port=$(free_port)
    setsid "$bin/rrun-cri" serve --root "$work/cri" --state "$work/cri-run" --store "$store" \
        --runtime-root "$work/run" --cni-conf-dir "$work/no-cni" --bridge "$bridge" \
        --listen "unix://$work/cri.sock" > "$work/cri.log" 2>&1 < /dev/null &
    pids+=($!)
    setsid "$bin/rrun-pods" serve "${serve[@]}" --root "$work/pods" --socket "$work/pods.sock" --listen "127.0.0.1:$port" \
        --node-name node-1 --cri "unix://$work/cri.sock" --log-dir "$work/logs" \
        --service-table "rrun-$bridge" > "$work/pods.log" 2>&1 < /dev/null &
    pids+=($!)
    await "the node to be ready" 15 "$kubectl" wait --for=condition=Ready node/node-1 --timeout=1s
}

# Removes every workload while there is an API to do it with, and waits for what they are made of to
# be gone (mounts, interfaces, shims); then ends the daemons.
world_down() {
    local pid
    timeout 90 "$kubectl" delete cronjobs,jobs,deployments,statefulsets,daemonsets,replicationcontrollers,replicasets \
        --all -A --wait=false > /dev/null 2>&1 || true
    # The table of Services stays for as long as there are any, so that they outlive the daemon.
    timeout 90 "$kubectl" delete services --all -A --wait=false > /dev/null 2>&1 || true
    timeout 90 "$kubectl" delete pods --all -A --grace-period=1 > /dev/null 2>&1 || true
    await "the pods to be gone" 60 no_sandboxes || pods get pods -A 2> /dev/null || true
    for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
    wait 2> /dev/null || true
}
no_sandboxes() { [ -z "$(ls "$work/cri-run/sandboxes" 2> /dev/null)" ]; }
