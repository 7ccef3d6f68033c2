//! Claims about JSON.
