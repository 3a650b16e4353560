//! config.json: loading, and the checks that need no IO.
