//! An entry point before libc's, for a statically linked program: executes the program again from
//! a read-only mount of its file ([`crate::seal`]) before libc has done anything, which it would
//! only do twice. Its start asks the processor some forty times what it is (CPUID), and each of
//! these leaves a virtual machine: 0.25 ms.
//!
//! The linker is told to begin at `rrun_entry` by the program's build script. Whatever fails here
//! is done again, and told, by [`crate::seal::protect_own_binary`].
//!
//! Nothing here may call a function of libc: memcpy and its like are not linked yet.

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::{asm, naked_asm};
    use std::mem::MaybeUninit;
    use std::sync::atomic::Ordering::Relaxed;

    /// First instruction of the program: [`before_libc`] with the address of what the kernel left
    /// on the stack, then libc's entry with every register and the stack as they were.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    extern "C" fn rrun_entry() -> ! {
        // rdx is the only other register that the ABI gives a meaning; r12 to r15 are the callee's
        // to preserve. The stack is aligned to 16 at the entry, as it has to be before a call.
        naked_asm!(
            "mov r12, rsp",
            "mov r13, rdx",
            "mov rdi, rsp",
            "call {before}",
            "mov rsp, r12",
            "mov rdx, r13",
            "xor ebp, ebp",
            "jmp _start",
            before = sym before_libc,
        )
    }

    /// Of `struct statfs`, in words of 8 bytes: how long it is, and where `f_flags` is in it.
    const STATFS_WORDS: usize = 15;
    const STATFS_FLAGS: usize = 10;
    const EXE: *const u8 = c"/proc/self/exe".as_ptr().cast();
    const EMPTY: *const u8 = c"".as_ptr().cast();

    /// # Safety
    ///
    /// `stack` points at what the kernel leaves for a new program: argc, argv, null, envp, null.
    unsafe extern "C" fn before_libc(stack: *const usize) {
        // SAFETY: the first word is argc, and that many pointers to C strings follow it.
        let (argc, argv) = unsafe { (*stack, stack.add(1).cast::<*const u8>()) };
        let mut index = 1;
        let enters = loop {
            if index >= argc {
                return;
            }
            // SAFETY: see above; index 0 is the program's name.
            if let Some(enters) = unsafe { enters_container(*argv.add(index)) } {
                break enters;
            }
            index += 1;
        };
        if !enters {
            return;
        }
        // Not zeroed, for which the compiler might call memset.
        let mut statfs = [const { MaybeUninit::<usize>::uninit() }; STATFS_WORDS];
        // SAFETY: a C string, and room for a struct statfs (120 bytes).
        let told = unsafe {
            call(
                libc::SYS_statfs,
                [EXE as usize, (&raw mut statfs) as usize, 0, 0, 0],
            )
        };
        if told != 0 {
            return;
        }
        // SAFETY: the call succeeded, and filled it.
        let flags = unsafe { statfs[STATFS_FLAGS].assume_init() };
        if flags & libc::ST_RDONLY as usize != 0 {
            crate::seal::SEALED.store(true, Relaxed);
            return;
        }
        // SAFETY: envp follows argv and its null.
        unsafe { execute_sealed(argv, argv.add(argc + 1)) };
    }

    /// Whether a process of the command enters a container, as of `run`, `exec`, `create`,
    /// `restore`; not so where another program takes over, which is looked for beside this one's
    /// file. `None` for any other word: an option's value, or a command that costs no second start.
    ///
    /// # Safety
    ///
    /// `argument` is one of argv, above which the kernel leaves 8 bytes more.
    unsafe fn enters_container(argument: *const u8) -> Option<bool> {
        const fn word(name: [u8; 8]) -> u64 {
            u64::from_le_bytes(name)
        }
        // SAFETY: strings of arguments and environment are one block, which ends with the
        // program's path and 8 zero bytes: 8 bytes can be read from the start of each.
        let text = unsafe { argument.cast::<u64>().read_unaligned() };
        let (three, four, five, six) = (text << 32, text << 24, text << 16, text << 8);
        if three == word(*b"\0\0\0\0run\0")
            || four == word(*b"\0\0\0exec\0")
            || six == word(*b"\0create\0")
            || text == word(*b"restore\0")
        {
            return Some(true);
        }
        let other = three == word(*b"\0\0\0\0cri\0")
            || four == word(*b"\0\0\0pods\0")
            || five == word(*b"\0\0image\0");
        other.then_some(false)
    }

    /// Returns when it failed.
    ///
    /// # Safety
    ///
    /// `argv` and `envp` are arrays of C strings that end with null.
    unsafe fn execute_sealed(argv: *const *const u8, envp: *const *const u8) {
        let clone = (libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC) as usize;
        let empty_path = libc::AT_EMPTY_PATH as usize;
        let read_only = crate::mount::MountAttr {
            set: crate::mount::attr::RDONLY,
            clear: 0,
            propagation: 0,
            userns_fd: 0,
        };
        let here = libc::AT_FDCWD as usize;
        // SAFETY: constant C strings, a live struct of the size given, and the caller's arrays; the
        // descriptor is this function's own.
        unsafe {
            let tree = call(libc::SYS_open_tree, [here, EXE as usize, clone, 0, 0]);
            if tree < 0 {
                return;
            }
            let tree = tree as usize;
            let attr = (&raw const read_only) as usize;
            let size = size_of_val(&read_only);
            let set = [tree, EMPTY as usize, empty_path, attr, size];
            if call(libc::SYS_mount_setattr, set) == 0 {
                let exec = [
                    tree,
                    EMPTY as usize,
                    argv as usize,
                    envp as usize,
                    empty_path,
                ];
                call(libc::SYS_execveat, exec);
            }
            call(libc::SYS_close, [tree, 0, 0, 0, 0]);
        }
    }

    /// A system call, without the errno that libc would set in memory that is not there yet.
    ///
    /// # Safety
    ///
    /// The arguments are what the call takes.
    unsafe fn call(number: libc::c_long, arguments: [usize; 5]) -> isize {
        let result;
        // SAFETY: the kernel's calling convention: it changes rax, rcx and r11, and the memory that
        // the arguments point to, for which the caller vouches.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") number as isize => result,
                in("rdi") arguments[0],
                in("rsi") arguments[1],
                in("rdx") arguments[2],
                in("r10") arguments[3],
                in("r8") arguments[4],
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result
    }

    #[cfg(test)]
    mod tests {
        use super::enters_container;

        #[test]
        fn commands_that_enter_a_container() {
            let enters = |text: &[u8]| {
                let mut padded = text.to_vec();
                padded.resize(text.len() + 8, b'x');
                padded[text.len()] = 0;
                // SAFETY: a C string with 7 bytes more.
                unsafe { enters_container(padded.as_ptr()) }
            };
            for name in ["run", "exec", "create", "restore"] {
                assert_eq!(enters(name.as_bytes()), Some(true), "{name}");
            }
            for name in ["image", "cri", "pods"] {
                assert_eq!(enters(name.as_bytes()), Some(false), "{name}");
            }
            for name in [
                "", "r", "ru", "runs", "runrun", "state", "exec2", "restored", "creat", "kill",
            ] {
                assert_eq!(enters(name.as_bytes()), None, "{name}");
            }
        }

        #[test]
        fn statfs_has_its_flags_where_they_are_read() {
            assert_eq!(size_of::<libc::statfs64>(), super::STATFS_WORDS * 8);
            assert_eq!(
                std::mem::offset_of!(libc::statfs64, f_flags),
                super::STATFS_FLAGS * 8
            );
        }
    }
}
