//! Promises shown on a coordinator in this process: what it acknowledges is written down, and looked for later.

pub(crate) mod hand;
pub(crate) mod ledger;
pub(crate) mod work;
