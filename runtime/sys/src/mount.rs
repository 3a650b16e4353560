//! The mount API by descriptors: fsopen, fsmount, open_tree, move_mount, mount_setattr, pivot_root.
