//! What may happen to a study, a trial, an attempt and a lease: the state machine and the reactor that decides.
