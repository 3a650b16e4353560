# The default of rrun-cri's containers. It names no file of /etc/apparmor.d, so that it can be loaded
# wherever the kernel has AppArmor.
profile rrun-default flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,

  # Signals come from the runtime and from other processes of containers, and go to the latter.
  signal (receive) peer=unconfined,
  signal (send, receive) peer=rrun-default,
  ptrace (trace, read, tracedby, readby) peer=rrun-default,

  deny mount,

  # What is not of a process belongs to the machine.
  deny /proc/* w,
  deny /proc/{acpi,bus,driver,fs,irq,scsi,tty}/** wklx,
  deny /proc/sys/[^k]** wklx,
  deny /proc/sys/kernel/[^s]** wklx,
  deny /proc/sys/kernel/s[^h]** wklx,
  deny /proc/{sysrq-trigger,kcore,kmem,mem} rwklx,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
