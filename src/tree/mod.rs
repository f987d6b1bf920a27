//! Whole directory trees by descriptor: copy, disk usage, difference, removal. Never follows a symlink and never leaves the tree.
