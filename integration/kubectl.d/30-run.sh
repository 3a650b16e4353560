# Run, logs, exec, copy, forward
want 'pod/box created' run box --image="$image:v1" --labels=app=box --env=WHO=me --port=8080 -- sh -c 'echo started as $WHO; echo oops >&2; while :; do echo tick; sleep 0.2; done'
want 'condition met' wait --for=condition=Ready pod/box --timeout=20s
since_minor 23 want 'condition met' wait --for=jsonpath='{.status.phase}'=Running pod/box --timeout=20s
want 'started as me' logs box
want 'oops' logs pod/box -c box
want '^tick$' logs box --tail=1
want '^\d{4}-\d\d-\d\dT.*Z tick' logs box --tail=1 --timestamps
want tick logs box --since=5s --limit-bytes=100
want tick logs box --since-time="$(date -u -d '5 sec ago' +%Y-%m-%dT%H:%M:%SZ)"
want tick logs -l app=box --tail=2 --prefix
that 'kubectl logs -f follows' bash -c "timeout 2 '$kubectl' logs -f box --tail=1 | [ \$(wc -l) -gt 4 ]"
want '^hello' exec box -- echo hello
want '^me' exec box -c box -- sh -c 'echo $WHO'
refused 'code 7' exec box -- sh -c 'exit 7'
refused 'not found|no such' exec box -- /no/such/program
want '^to stdin' exec -i box -- cat <<< 'to stdin'
that 'kubectl exec copies 2 MB in both directions unchanged' bash -c "head -c 2000000 /dev/urandom > blob; '$kubectl' exec -i box -- cat < blob | cmp - blob"
that 'kubectl exec -it has a terminal' bash -c "script -qec \"'$kubectl' exec -it box -- sh -c 'tty; stty size'\" /dev/null < /dev/null | grep -q /dev/pts"
want - cp blob box:/tmp/blob
want - cp box:/tmp/blob blob.back
that 'what was copied in and out is the same' cmp blob blob.back
mkdir -p conf.d && echo hello > conf.d/greeting
want - cp conf.d box:/tmp/conf.d
want greeting exec box -- ls /tmp/conf.d
want created apply -f - <<Y
apiVersion: v1
kind: Pod
metadata: {name: talk}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: "$image:v1", stdin: true, command: [sh, -c, 'while read -r l; do echo "got \$l"; [ "\$l" != bye ] || exit 3; done']}
Y
want - wait --for=condition=Ready pod/talk --timeout=20s
that 'kubectl attach -i sends lines and gets them' bash -c "printf 'one\nbye\n' | timeout 10 '$kubectl' attach -i talk | grep -q 'got'"
soon 'talk +0/1 +Error' get pod talk
want '(?s)Exit Code: +3' describe pod talk
want 'hi there' run once --image="$image:v1" --restart=Never --rm -i --quiet --command -- echo hi there
soon '^$' get pod once --ignore-not-found
want created run web --image="$image:v1" --expose --port=8080
want 'condition met' wait --for=condition=Ready pod/web --timeout=20s
forward() { # RESOURCE REMOTE
    local log=$work/forward.log pid status=0
    : > "$log"
    "$kubectl" port-forward --address 127.0.0.1 "$1" ":$2" > "$log" 2>&1 &
    pid=$!
    await "the port to be forwarded" 5 grep -q 'Forwarding from' "$log" || status=1
    local port
    port=$(sed -n 's/Forwarding from 127.0.0.1:\([0-9]*\).*/\1/p' "$log")
    for _ in 1 2 3; do curl -fs -m 5 "http://127.0.0.1:$port/cgi-bin/index.cgi" | grep -q 'web serves v1' || status=1; done
    kill $pid && wait $pid 2> /dev/null || true
    [ $status = 0 ] || cat "$log"
    return $status
}
that 'kubectl port-forward pod/web' forward pod/web 8080
that 'kubectl port-forward service/web' forward service/web 8080
refused 'NotFound' port-forward pod/nobody 1:1
soon 'box +\d+m +\d+Mi' top pod box
want 'POD +NAME +CPU' top pod box --containers
want 'node-1 +\d+m +\d+%' top node
soon 'Started' get events --field-selector involvedObject.name=box
since_minor 23 want '(?s)Scheduled.*Started' events --for pod/box
want 'Started' get events.v1.events.k8s.io --field-selector regarding.name=box,reason=Started
want '^events.k8s.io/v1 .*box' get events.v1.events.k8s.io --field-selector regarding.name=box,reason=Started -o 'jsonpath={.items[0].apiVersion} {.items[0].note}'
want '(?s)Events:.*Started' describe pod box
want '(?s)Name: +box.*Node: +node-1.*State: +Running' describe pod/box
since_minor 25 that 'kubectl debug adds an ephemeral container' bash -c "'$kubectl' debug box --image='$image:v1' --target=box -c dbg -- sh -c 'echo from the debugger; cat /proc/1/cmdline; sleep 1000'"
since_minor 25 soon 'from the debugger' logs box -c dbg
since_minor 25 want '(?s)Ephemeral Containers:.*dbg' describe pod box
since_minor 25 want - debug box --image="$image:v1" --copy-to=box-copy --share-processes -- sleep 100
since_minor 25 want 'box debugger|box,debugger|box.*debugger' get pod box-copy -o 'jsonpath={.spec.containers[*].name}'
since_minor 27 want 'debugger' debug node/node-1 --image="$image:v1" -- true
want created apply -f - <<Y
apiVersion: v1
kind: Pod
metadata: {name: crashes}
spec:
  containers:
  - {name: c, image: "$image:v1", command: [sh, -c, "echo run \$(date +%s%N); sleep 0.3; exit 1"]}
Y
soon 'crashes.*[1-9]' get pod crashes -o 'custom-columns=N:.metadata.name,R:.status.containerStatuses[0].restartCount'
soon '^run' logs crashes --previous
refused 'previous terminated container' logs box --previous
refused 'container .*nothing|not valid|is not valid' logs box -c nothing
want deleted delete pod crashes --grace-period=0 --force
want 'pod "box" (force )?deleted' delete pod box --now
# Resources that change while it runs, and files out of an image.
want created apply -f - <<Y
apiVersion: v1
kind: Pod
metadata: {name: sized}
spec:
  containers:
  - name: c
    image: "$image:v1"
    command: [sleep, "1000"]
    resources: {requests: {memory: 64Mi}, limits: {memory: 64Mi}}
    volumeMounts: [{name: files, mountPath: /files}]
  volumes:
  - {name: files, image: {reference: "$image:v1", pullPolicy: IfNotPresent}}
Y
want 'condition met' wait --for=condition=Ready pod/sized --timeout=20s
want busybox exec sized -- ls /files/bin
refused 'Read-only' exec sized -- touch /files/new
memory_of() { k exec "$1" -- sh -c 'cat /sys/fs/cgroup/memory.max 2> /dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes'; }
has_memory() { [ "$(memory_of "$1")" = "$2" ]; }
that 'the limit of memory is in the cgroup' has_memory sized $((64 << 20))
since_minor 32 want patched patch pod sized --subresource=resize \
    --patch '{"spec": {"containers": [{"name": "c", "resources": {"requests": {"memory": "96Mi"}, "limits": {"memory": "96Mi"}}}]}}'
since_minor 32 soon '^96Mi 0$' get pod sized -o 'jsonpath={.status.containerStatuses[0].resources.limits.memory} {.status.containerStatuses[0].restartCount}'
since_minor 32 that 'the new limit is in the cgroup of the same container' await "the new limit" 20 has_memory sized $((96 << 20))
want deleted delete pod sized --grace-period=1
# A container that heeds no signal, in a pod with half an hour: a forced delete does not wait for that.
deaf() {
    cat <<Y
apiVersion: v1
kind: Pod
metadata: {name: deaf}
spec:
  terminationGracePeriodSeconds: 1800
  containers:
  - {name: c, image: "$image:v1", command: [sh, -c, 'trap "" TERM; while :; do sleep 0.1; done']}
Y
}
deaf > deaf.yaml
want created apply -f deaf.yaml
want 'condition met' wait --for=condition=Ready pod/deaf --timeout=20s
want deleted delete pod deaf --wait=false
soon 'deaf +1/1 +Terminating' get pod deaf
uid=$(k get pod deaf -o 'jsonpath={.metadata.uid}')
want deleted delete pod deaf --grace-period=0 --force
want created apply -f deaf.yaml
want 'condition met' wait --for=condition=Ready pod/deaf --timeout=20s
no_log() { [ ! -e "$work/logs/${namespace}_deaf_$uid" ]; }
that 'nothing is left of a pod that a forced delete ended' await "its logs to be gone" 20 no_log
want deleted delete pod deaf --grace-period=0 --force
want deleted delete pods,services --all --grace-period=1
