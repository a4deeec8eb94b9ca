//! End-to-end tests: the real binary, real processes, real signals, a home folder of their own.

mod daemons;
mod house;
mod operations;
mod refusals;
mod reproduce;
mod reproduction;
mod resume;
mod run;
mod serve;
