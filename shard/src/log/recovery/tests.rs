//! What is recovered after every kind of end.
