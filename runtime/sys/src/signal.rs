//! Signal names, masks and signalfd.
