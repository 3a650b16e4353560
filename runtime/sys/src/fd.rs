//! Reading, writing, duplicating and closing descriptors.
