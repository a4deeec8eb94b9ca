//! Prints how fast each kernel runs; an argument names other kernels than the widest: `portable`, `avx2`.
#![expect(clippy::print_stdout, reason = "this program prints a table")]

use kapell_model::{KernelsError, bench, select_kernels};

fn main() -> Result<(), KernelsError> {
    select_kernels(&std::env::args().nth(1).unwrap_or_else(|| String::from("auto")))?;
    let (level, all) = bench::kernels();
    println!("kernels: {level}");
    for kernel in all {
        let naive =
            kernel.naive_us.map_or(String::new(), |us| format!("  {:5.1}x a plain loop", us / kernel.us));
        println!(
            "{:44} {:>18} {:9.1} us {:7.1} {}{naive}",
            kernel.name, kernel.shape, kernel.us, kernel.speed, kernel.unit
        );
    }
    Ok(())
}
