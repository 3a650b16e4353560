//! Scheduling: policy, affinity, I/O priority, memory policy, personality.
