//! What is written comes back; what was altered does not.
