//! Prints how fast each kernel runs; `KAPELL_KERNELS=portable` (or `avx2`) lowers the instruction set.
#![expect(clippy::print_stdout, reason = "this program prints a table")]

use kapell_model::bench;

fn main() {
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
}
