#!/usr/bin/env python3
"""Build stand-ins for the images the CRI conformance suite (critest) asks for.

Everything is assembled from files of this Debian host (busybox-static, nginx,
coreutils), so no outside registry is needed.  The images are deterministic:
the same input files always give the same digests.

  images.py push  ADDR [--big]   build and push to the registry at ADDR
                                   (plain HTTP, e.g. 127.0.0.1:5000)
  images.py layout DIR           write one OCI layout, refs as annotations
  images.py hosts DIR ADDR       write containerd-style DIR/<registry>/hosts.toml
                                   redirecting every registry of the suite to ADDR
  images.py prepare DIR ADDR     push, hosts in DIR/hosts and list in DIR/list, the
                                   images built only once
  images.py list                 print "registry/repo:tag digest" of everything

The repository paths in the registry are those of the public images without
their host name, which is what both `critest --registry-prefix ADDR` and a
registry mirror entry expect.

Packages: busybox-static nginx-light (or nginx) coreutils; cc is optional.
"""
import argparse, gzip, hashlib, http.client, io, json, os, re, shutil, subprocess, sys, tarfile, tempfile

ARCH = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le",
        "s390x": "s390x", "riscv64": "riscv64"}[os.uname().machine]
OTHER_ARCH = "arm64" if ARCH != "arm64" else "amd64"
EPOCH = "2024-01-01T00:00:00Z"
EPOCH_S = 1704067200

CRI = "gcr.io/k8s-staging-cri-tools/"
E2E = "registry.k8s.io/e2e-test-images/"
ECR = "public.ecr.aws/docker/library/"

OCI = dict(manifest="application/vnd.oci.image.manifest.v1+json",
           index="application/vnd.oci.image.index.v1+json",
           config="application/vnd.oci.image.config.v1+json",
           layer="application/vnd.oci.image.layer.v1.tar+gzip",
           zlayer="application/vnd.oci.image.layer.v1.tar+zstd")
DOCKER = dict(manifest="application/vnd.docker.distribution.manifest.v2+json",
              index="application/vnd.docker.distribution.manifest.list.v2+json",
              config="application/vnd.docker.container.image.v1+json",
              layer="application/vnd.docker.image.rootfs.diff.tar.gzip")

PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUP = """root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
wheel:x:10:
mail:x:8:
www-data:x:33:
operator:x:37:
users:x:100:
nogroup:x:65534:
"""
PAUSE_C = r"""
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void stop(int s) { (void)s; _exit(0); }
static void reap(int s) { (void)s; while (waitpid(-1, 0, WNOHANG) > 0) ; }
int main(void) {
  struct sigaction a = {0};
  a.sa_handler = stop; sigaction(SIGTERM, &a, 0); sigaction(SIGINT, &a, 0);
  a.sa_handler = reap; a.sa_flags = SA_NOCLDSTOP; sigaction(SIGCHLD, &a, 0);
  for (;;) pause();
}
"""
NNP_C = r"""
#include <stdio.h>
#include <unistd.h>
int main(void) { printf("Effective uid: %d\n", (int)geteuid()); return 0; }
"""
PGREP = """#!/bin/sh
# pgrep NAME: pids of the processes whose name contains NAME
r=1
for d in /proc/[0-9]*; do
  p=${d#/proc/}
  read -r c 2>/dev/null < $d/comm || continue
  case $c in *"$1"*) [ $p != $$ ] && { echo $p; r=0; };; esac
done
exit $r
"""
IPCS = """#!/bin/sh
# ipcs -m: the shared memory segments of this IPC namespace
echo '------ Shared Memory Segments --------'
awk 'NR == 1 { print "key shmid owner perms bytes nattch" } NR > 1 { print $1, $2, $8, $3, $4, $7 }' /proc/sysvipc/shm
"""
NGINX_CONF = """worker_processes 1;
pid /var/run/nginx.pid;
error_log /dev/stderr warn;
events { worker_connections 64; }
http {
  access_log /dev/stdout;
  types { text/html html; text/plain txt; }
  default_type application/octet-stream;
  client_body_temp_path /tmp/nginx-body; proxy_temp_path /tmp/nginx-proxy;
  fastcgi_temp_path /tmp/nginx-fcgi; uwsgi_temp_path /tmp/nginx-uwsgi; scgi_temp_path /tmp/nginx-scgi;
  server {
    listen @LISTEN@;
    server_name localhost;
    location / { root /usr/share/nginx/html; index index.html; }
  }
}
"""


def sha(b):
    return "sha256:" + hashlib.sha256(b).hexdigest()


def cc_static(src):
    """Compile a tiny static program, or None where there is no C compiler."""
    cc = shutil.which(os.environ.get("CC", "cc"))
    if not cc:
        return None
    with tempfile.TemporaryDirectory() as d:
        open(d + "/a.c", "w").write(src)
        r = subprocess.run([cc, "-Os", "-static", "-s", "-Wl,--build-id=none", "-o", d + "/a", d + "/a.c"])
        return open(d + "/a", "rb").read() if r.returncode == 0 else None


def need(*names):
    for n in names:
        p = shutil.which(n, path="/usr/sbin:/usr/bin:/sbin:/bin:" + os.environ.get("PATH", ""))
        if p:
            return os.path.realpath(p)
    sys.exit(f"mkimages: none of {names} found on this machine")


def libs_of(path):
    """Shared objects of a dynamic program as {path in image: host file}."""
    out = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    return {m: os.path.realpath(m) for m in re.findall(r"(/\S+\.so\S*)", out)}


class Tree:
    """A layer under construction: path -> (mode, uid, gid, kind, data)."""

    def __init__(self):
        self.e = {}

    def dir(self, p, mode=0o755, uid=0, gid=0):
        p = p.strip("/")
        if "/" in p:
            self.dir_parents(p)
        self.e[p] = (mode, uid, gid, "d", None)
        return self

    def dir_parents(self, p):
        parts = p.strip("/").split("/")[:-1]
        for i in range(1, len(parts) + 1):
            self.e.setdefault("/".join(parts[:i]), (0o755, 0, 0, "d", None))

    def file(self, p, data, mode=0o644, uid=0, gid=0):
        self.dir_parents(p)
        self.e[p.strip("/")] = (mode, uid, gid, "f", data if isinstance(data, bytes) else data.encode())
        return self

    def link(self, p, target):
        self.dir_parents(p)
        self.e[p.strip("/")] = (0o777, 0, 0, "l", target)
        return self

    def hard(self, p, target):
        self.dir_parents(p)
        self.e[p.strip("/")] = (0o755, 0, 0, "h", target.strip("/"))
        return self

    def program(self, src, dst):
        """A dynamic program with its shared libraries."""
        self.file(dst, open(src, "rb").read(), 0o755)
        for p, host in libs_of(src).items():
            self.file(p, open(host, "rb").read(), 0o755)
        return self

    def tar(self):
        buf = io.BytesIO()
        with tarfile.open(fileobj=buf, mode="w", format=tarfile.PAX_FORMAT) as t:
            order = sorted(self.e, key=lambda p: (self.e[p][3] == "h", p))
            for p in order:
                mode, uid, gid, kind, data = self.e[p]
                ti = tarfile.TarInfo(p + ("/" if kind == "d" else ""))
                ti.mode, ti.uid, ti.gid, ti.mtime = mode, uid, gid, EPOCH_S
                ti.type = {"d": tarfile.DIRTYPE, "f": tarfile.REGTYPE, "l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE}[kind]
                if kind == "f":
                    ti.size = len(data)
                    t.addfile(ti, io.BytesIO(data))
                else:
                    if kind in "lh":
                        ti.linkname = data
                    t.addfile(ti)
        return buf.getvalue()


class Store:
    """Blobs, manifests and the references that name them."""

    def __init__(self, fmt):
        self.mt = fmt
        self.blobs, self.manifests, self.refs, self.used = {}, {}, {}, {}

    def layer(self, tree):
        raw = tree.tar() if isinstance(tree, Tree) else tree
        z = gzip.compress(raw, 6, mtime=0)
        self.blobs[sha(z)] = z
        return dict(mediaType=self.mt["layer"], digest=sha(z), size=len(z)), sha(raw)

    def manifest(self, layers, config, arch=ARCH):
        cfg = dict(created=EPOCH, architecture=arch, os="linux", config=config,
                   rootfs=dict(type="layers", diff_ids=[d for _, d in layers]),
                   history=[dict(created=EPOCH, created_by="images.py") for _ in layers])
        c = json.dumps(cfg, sort_keys=True).encode()
        self.blobs[sha(c)] = c
        m = dict(schemaVersion=2, mediaType=self.mt["manifest"],
                 config=dict(mediaType=self.mt["config"], digest=sha(c), size=len(c)),
                 layers=[l for l, _ in layers])
        return self._put(m)

    def _put(self, m):
        b = json.dumps(m, sort_keys=True).encode()
        self.manifests[sha(b)] = (m["mediaType"], b)
        return dict(mediaType=m["mediaType"], digest=sha(b), size=len(b))

    def index(self, descs):
        return self._put(dict(schemaVersion=2, mediaType=self.mt["index"], manifests=[
            dict(d, platform=dict(architecture=a, os="linux")) for a, d in descs]))

    def ref(self, name, desc):
        self.refs[name] = desc["digest"]


def busybox_tree():
    bb = need("busybox")
    if "statically linked" not in subprocess.run(["file", "-L", bb], capture_output=True, text=True).stdout + \
            ("" if shutil.which("file") else "statically linked"):
        sys.exit("mkimages: busybox is not static; install busybox-static")
    t = Tree()
    t.file("bin/busybox", open(bb, "rb").read(), 0o755)
    for a in subprocess.run([bb, "--list"], capture_output=True, text=True).stdout.split():
        if a not in ("busybox", "sh"):
            t.hard("bin/" + a, "bin/busybox")
    # Debian's shell runs applets without executing /bin/NAME, which hides what
    # MaskedPaths=["/bin/ls"] does.  The copy that is /bin/sh forgets its "ls".
    # ("lr" keeps the table of applet names sorted.)
    t.file("bin/sh", t.e["bin/busybox"][4].replace(b"\0losetup\0ls\0lsmod\0", b"\0losetup\0lr\0lsmod\0"), 0o755)
    for n, script in (("pgrep", PGREP), ("ipcs", IPCS)):  # Debian builds busybox without these
        if "bin/" + n not in t.e:
            t.file("bin/" + n, script, 0o755)
    for d in ("dev", "proc", "sys", "var/spool/mail", "var/www", "home", "usr/sbin", "usr/bin", "etc"):
        t.dir(d)
    t.link("usr/bin/env", "/bin/env")
    t.dir("root", 0o700).dir("tmp", 0o1777).dir("var/run").link("run", "/var/run")
    t.file("etc/passwd", PASSWD).file("etc/group", GROUP).file("etc/shadow", "root:*:::::::\n", 0o600)
    t.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    return t


def build(fmt, multi=True):
    s = Store(fmt)
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    base = s.layer(busybox_tree())
    conf = lambda **k: dict(dict(Env=[path], Cmd=["sh"]), **k)

    def image(layers, config):
        """The image as an index with a second (unusable) architecture, as the public ones are."""
        d = s.manifest(layers, config)
        if not multi:
            return d
        other = s.manifest([s.layer(Tree().file("not-for-this-architecture", ""))], config, OTHER_ARCH)
        return s.index([(ARCH, d), (OTHER_ARCH, other)])

    marker = lambda n: s.layer(Tree().file(n, ""))
    bb = image([base], conf())
    for n in (E2E + "busybox:1.29-2", E2E + "busybox:1.29-4", ECR + "busybox:1"):
        s.ref(n, bb)
    for v in ("1-glibc", "1-musl", "1-uclibc", "1.35.0-glibc"):
        s.ref(ECR + "busybox:" + v, image([base, marker("variant-" + v)], conf()))

    # Image manager tests
    for n in ("test-image-1", "test-image-2", "test-image-3", "test-image-latest"):
        s.ref(CRI + n + ":latest", image([base, marker(n)], conf()))
    # Pulled by digest, and the suite wants that one digest and no other listed.
    s.ref(CRI + "test-image-digest:latest", s.manifest([base, marker("test-image-digest")], conf()))
    same = image([base, marker("same-image")], conf())
    for v in "123":
        s.ref(CRI + "test-image-tags:" + v, same)
    for v in ("test", "all"):
        s.ref(CRI + "test-image-tag:" + v, image([base, marker(v)], conf()))
    for n, u in (("uid", "1002"), ("username", "www-data"), ("uid-group", "1003:1004"), ("username-group", "www-data:1004")):
        s.ref(CRI + "test-image-user-" + n + ":latest", image([base], conf(User=u)))
    users = Tree().file("etc/passwd", PASSWD + "default-user:x:1000:1000:Linux User,,,:/home/default-user:/bin/sh\n")
    users.file("etc/group", GROUP + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")
    users.dir("home/default-user", 0o755, 1000, 1000)
    s.ref(CRI + "test-image-predefined-group:latest", image([base, s.layer(users)], conf(User="1000")))

    # Pause: 3.9 must be one image that two registries serve, and not the one a
    # runtime pins as its sandbox image.
    p = cc_static(PAUSE_C)
    if p:
        pl = s.layer(Tree().file("pause", p, 0o755))
        pc = dict(Env=[path], Entrypoint=["/pause"], User="65535:65535")
    else:
        pl = base
        pc = dict(Env=[path], Entrypoint=["/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"])
    for v in ("3.9", "3.10", "3.10.1", "3.10.2"):
        pause = image([pl], dict(pc, Labels={"version": v}))
        for n in ("registry.k8s.io/pause:", "k8s.gcr.io/pause:"):
            s.ref(n + v, pause)

    # Web servers
    ng = Tree().program(need("nginx"), "usr/sbin/nginx")
    ng.file("usr/share/nginx/html/index.html", "<html><body><h1>Welcome to nginx!</h1></body></html>\n")
    ng.dir("var/log/nginx").dir("var/lib/nginx").dir("etc/nginx")
    ng.file("etc/nginx/nginx.conf", NGINX_CONF.replace("@LISTEN@", "80"))
    ngl = s.layer(ng)
    ngc = conf(Cmd=["nginx", "-g", "daemon off; user www-data;"], ExposedPorts={"80/tcp": {}}, StopSignal="SIGQUIT")
    nginx = image([base, ngl], ngc)
    for v in ("1.14-2", "1.14-4"):
        s.ref(E2E + "nginx:" + v, nginx)
    # In the host's network: loopback is all that the port-forward test needs.
    hn = s.layer(Tree().file("etc/nginx/nginx.conf", NGINX_CONF.replace("@LISTEN@", "127.0.0.1:12003")))
    s.ref(f"{CRI}hostnet-nginx-{ARCH}:latest", s.manifest([base, ngl, hn], ngc))
    hd = Tree().file("var/www/index.html", "<html><body><h1>It works!</h1></body></html>\n")
    hd.file("usr/local/bin/httpd-foreground", "#!/bin/sh\necho 'httpd: started' >&2\nexec httpd -f -v -p 80 -h /var/www\n", 0o755)
    s.ref(E2E + "httpd:2.4.39-4", image([base, s.layer(hd)], conf(Cmd=["httpd-foreground"])))

    # Set-uid root program that says whom it runs as
    n = cc_static(NNP_C)
    nn = Tree()
    if n:
        nn.file("nnp", n, 0o4755)
        cmd = ["/nnp"]
    else:
        nn.program(need("id"), "usr/bin/id-suid")
        mode, u, g, k, d = nn.e["usr/bin/id-suid"]
        nn.e["usr/bin/id-suid"] = (0o4755, u, g, k, d)
        nn.file("nnp", '#!/bin/sh\necho "Effective uid: $(/usr/bin/id-suid -u)"\n', 0o755)
        cmd = ["/nnp"]
    s.ref(E2E + "nonewprivs:1.3", image([base, s.layer(nn)], conf(Entrypoint=cmd, Cmd=None)))
    return s


def big(s, layers=8, mib=40):
    """Multi-layer images of real files for pull measurements: gzip and zstd twins."""
    roots = [r for r in ("/usr/lib", "/usr/share", "/usr/bin") if os.path.isdir(r)]
    names = []
    for r in roots:
        for d, ds, fs in os.walk(r):
            ds.sort()
            for f in sorted(fs):
                p = os.path.join(d, f)
                if os.path.isfile(p) and not os.path.islink(p):
                    names.append(p)
    it = iter(names)
    gz, zs = [], []
    for i in range(layers):
        buf = io.BytesIO()
        with tarfile.open(fileobj=buf, mode="w", format=tarfile.PAX_FORMAT) as t:
            seen = set()
            while buf.tell() < mib << 20:
                p = next(it, None)
                if p is None:
                    break
                parts = p.strip("/").split("/")
                for j in range(1, len(parts)):
                    dd = "/".join(parts[:j])
                    if dd not in seen:
                        seen.add(dd)
                        ti = tarfile.TarInfo(dd + "/")
                        ti.type, ti.mode, ti.mtime = tarfile.DIRTYPE, 0o755, EPOCH_S
                        t.addfile(ti)
                try:
                    data = open(p, "rb").read()
                except OSError:
                    continue
                ti = tarfile.TarInfo(p.strip("/"))
                ti.size, ti.mode, ti.mtime = len(data), 0o644, EPOCH_S
                t.addfile(ti, io.BytesIO(data))
        raw = buf.getvalue()
        gz.append(s.layer(raw))
        z = subprocess.run(["zstd", "-3", "-q", "-c"], input=raw, capture_output=True, check=True).stdout
        s.blobs[sha(z)] = z
        zs.append((dict(mediaType=OCI["zlayer"], digest=sha(z), size=len(z)), sha(raw)))
        print(f"layer {i}: tar {len(raw)>>20} MiB gzip {gz[-1][0]['size']>>20} MiB zstd {len(z)>>20} MiB", file=sys.stderr)
    conf = dict(Cmd=["/bin/sh"])
    s.ref("registry.k8s.io/bench/big:gzip", s.manifest(gz, conf))
    s.ref("registry.k8s.io/bench/big:zstd", s.manifest(zs, conf))


def split(ref):
    host, rest = ref.split("/", 1)
    repo, tag = rest.rsplit(":", 1)
    return host, repo, tag


class Registry:
    def __init__(self, addr):
        self.addr, self.c = addr, http.client.HTTPConnection(addr, timeout=120)

    def req(self, method, path, body=None, headers={}):
        self.c.request(method, path, body, headers)
        r = self.c.getresponse()
        data = r.read()
        return r, data

    def blob(self, repo, digest, data):
        if self.req("HEAD", f"/v2/{repo}/blobs/{digest}")[0].status == 200:
            return
        r, d = self.req("POST", f"/v2/{repo}/blobs/uploads/")
        if r.status != 202:
            sys.exit(f"mkimages: upload to {repo}: {r.status} {d!r}")
        loc = r.getheader("Location")
        loc = loc[loc.index("/v2/"):]
        loc += ("&" if "?" in loc else "?") + "digest=" + digest
        r, d = self.req("PUT", loc, data, {"Content-Type": "application/octet-stream"})
        if r.status != 201:
            sys.exit(f"mkimages: blob {digest} to {repo}: {r.status} {d!r}")

    def manifest(self, repo, ref, mt, data):
        r, d = self.req("PUT", f"/v2/{repo}/manifests/{ref}", data, {"Content-Type": mt})
        if r.status != 201:
            sys.exit(f"mkimages: manifest {repo}:{ref}: {r.status} {d!r}")


def children(s, digest):
    m = json.loads(s.manifests[digest][1])
    return [d["digest"] for d in m.get("manifests", [])]


def push(s, addr):
    reg = Registry(addr)
    for ref, digest in s.refs.items():
        _, repo, tag = split(ref)
        for d in children(s, digest) + [digest]:
            m = json.loads(s.manifests[d][1])
            for b in m.get("layers", []) + ([m["config"]] if "config" in m else []):
                reg.blob(repo, b["digest"], s.blobs[b["digest"]])
            reg.manifest(repo, tag if d == digest else d, *s.manifests[d])


def layout(s, out):
    os.makedirs(out + "/blobs/sha256", exist_ok=True)
    for d, b in list(s.blobs.items()) + [(d, b) for d, (_, b) in s.manifests.items()]:
        open(f"{out}/blobs/sha256/{d[7:]}", "wb").write(b)
    idx = dict(schemaVersion=2, mediaType=OCI["index"], manifests=[
        dict(mediaType=s.manifests[d][0], digest=d, size=len(s.manifests[d][1]),
             annotations={"org.opencontainers.image.ref.name": r}) for r, d in s.refs.items()])
    json.dump(idx, open(out + "/index.json", "w"))
    json.dump(dict(imageLayoutVersion="1.0.0"), open(out + "/oci-layout", "w"))


def hosts(s, d, addr):
    for h in sorted({split(r)[0] for r in s.refs}):
        os.makedirs(f"{d}/{h}", exist_ok=True)
        open(f"{d}/{h}/hosts.toml", "w").write(
            f'server = "http://{addr}"\n\n[host."http://{addr}"]\n  capabilities = ["pull", "resolve"]\n')


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("command", choices=["push", "layout", "hosts", "prepare", "list"])
    a.add_argument("args", nargs="*")
    a.add_argument("--docker", action="store_true", help="Docker schema 2 media types instead of OCI")
    a.add_argument("--single", action="store_true", help="plain manifests, no indexes")
    a.add_argument("--big", action="store_true", help="also the pull-benchmark images (needs zstd)")
    o = a.parse_args()
    s = build(DOCKER if o.docker else OCI, not o.single)
    if o.big:
        big(s)
    if o.command == "hosts":
        hosts(s, *o.args)
    elif o.command in ("push", "prepare"):
        push(s, o.args[-1])
        if o.command == "prepare":
            hosts(s, o.args[0] + "/hosts", o.args[1])
            open(o.args[0] + "/list", "w").write("".join(f"{r} {d}\n" for r, d in s.refs.items()))
        print(f"{len(s.refs)} references, {len(s.blobs)} blobs, {sum(map(len, s.blobs.values()))>>20} MiB")
    elif o.command == "layout":
        layout(s, *o.args)
    elif o.command == "list":
        for r, d in s.refs.items():
            print(r, d)


main()
