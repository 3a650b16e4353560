//! rtnetlink in a few messages: loopback up, move a link.
