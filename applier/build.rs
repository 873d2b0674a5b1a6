//! With the feature `duckdb`: where the installed program looks for the library, beside itself.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is_set = |feature: &str| std::env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    if is_set("DUCKDB") && !is_set("DUCKDB_BUNDLED") {
        println!("cargo::rustc-link-arg-bins=-Wl,-rpath,$ORIGIN/../lib/syncdata");
    }
}
