//! Namespaces: unshare, setns, their descriptors and id maps.
