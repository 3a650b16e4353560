# Manifests in the shape of the Kubernetes documentation's, unchanged
others=$repo/integration/manifests/others
want 'deployment.apps/frontend created' apply -f "$others/guestbook.yaml"
want 'statefulset.apps/cassandra created' apply -f "$others/cassandra.yaml"
want 'statefulset.apps/zk created' apply -f "$others/zookeeper.yaml"
want 'deployment.apps/wordpress created' apply -f "$others/wordpress.yaml"
want 'cronjob.batch/hello created' apply -f "$others/batch.yaml"
want 'daemonset.apps/fluentd-elasticsearch created' apply -f "$others/pods.yaml"
for name in frontend redis-leader redis-follower wordpress wordpress-mysql; do
    want 'successfully rolled out' rollout status "deployment/$name" --timeout=60s
done
want 'condition met' wait --for=condition=Ready pods -l docs=yes --timeout=60s
want 'successfully rolled out' rollout status daemonset/fluentd-elasticsearch --timeout=30s
for name in cassandra zk; do
    want '3 pods at revision|complete' rollout status "statefulset/$name" --timeout=90s
done
want 'condition met' wait --for=condition=complete job/pi job/indexed-job --timeout=60s
want '^3\.14159' logs job/pi
want 'zk-pdb +N/A +1 +1' get pdb zk-pdb
want 'fast.*Bound|Bound.*fast' get pvc -l app=cassandra
want 'Bound' get pvc wp-pv-claim mysql-pv-claim
want 'redis-leader|:6379' get endpoints redis-leader redis-follower frontend
want 'drained' exec cassandra-0 -- nodetool drain
want 'not-a-secret' exec deploy/wordpress-mysql -- sh -c 'echo $MYSQL_ROOT_PASSWORD'
soon 'cassandra-2' exec cassandra-0 -- nslookup "cassandra-2.cassandra.$namespace.svc.cluster.local"
want 'Hello from the postStart' exec lifecycle-demo -- cat /tmp/message
# Once a minute.
patience=70 soon 'hello-\d+ ' get jobs
want unchanged apply -f "$others/guestbook.yaml"
# Cassandra's half an hour of grace is not waited for: its pods get a second, once nothing replaces them.
want deleted delete cronjobs,jobs,deployments,replicasets,statefulsets,daemonsets --all --cascade=orphan
want deleted delete pods --all --grace-period=1
want - delete -f "$others" --wait=false --ignore-not-found
want - delete pvc --all --timeout=30s
