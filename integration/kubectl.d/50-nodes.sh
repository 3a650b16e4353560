# Nodes: taint, cordon, drain
want created create deployment web --image="$image:v1" --replicas=2
want 'successfully rolled out' rollout status deployment/web --timeout=30s
want cordoned cordon node-1
want SchedulingDisabled get nodes
want '(?s)Unschedulable: +true' describe node node-1
want 'dry run' drain node-1 --dry-run=server --ignore-daemonsets --force --delete-emptydir-data
want '^False$' get pods -l app=web -o 'jsonpath={.items[?(@.metadata.deletionTimestamp)]}False'
want 'drained|node-1 evicted' drain node-1 --ignore-daemonsets --force --delete-emptydir-data --grace-period=1 --timeout=30s
soon 'Pending' get pods -l app=web
want uncordoned uncordon node-1
soon '2/2' get deployment web
since_minor 22 want created create pdb all --selector=app=web --min-available=2
since_minor 22 soon 'all +2 +N/A +0' get pdb all
since_minor 22 refused 'disruption budget' drain node-1 --ignore-daemonsets --force --delete-emptydir-data --timeout=3s
want uncordoned uncordon node-1
since_minor 22 want deleted delete pdb all
want tainted taint nodes node-1 dedicated=x:NoSchedule
want 'dedicated=x:NoSchedule' describe node node-1
want created run pending --image="$image:v1"
soon "untolerated taint" get events --field-selector involvedObject.name=pending,reason=FailedScheduling
want untainted taint nodes node-1 dedicated-
want 'condition met' wait --for=condition=Ready pod/pending --timeout=20s
want labeled label node node-1 disk=ssd
want ssd get nodes -L disk
want 'unlabeled|labeled' label node node-1 disk-
want deleted delete deployment/web pod/pending --grace-period=1
