//! Unix sockets: pairs, descriptors as messages.
