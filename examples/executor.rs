//! Python functions called from Rust: `cargo run --example executor`, with the package `fasterapi` installed in the
//! interpreter that `FASTERAPI_PYTHON` names (`.venv/bin/python3` after `make build`).

use std::error::Error;

use fasterapi::executor::{CallError, Config, ProcessPoolExecutor};
use sonic_rs::json;

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
async fn run(executor: ProcessPoolExecutor) -> Result<(), CallError> {
    // All of them at once: a call begins when it is submitted, not when it is awaited.
    let calls: Vec<_> = (0..8)
        .map(|n| executor.submit("fasterapi.test_handlers", "get_user", &json!({"user_id": n})))
        .collect();
    for call in calls {
        println!("{}", call.await?);
    }
    match executor.submit("json", "loads", &json!({"s": "{"})).await {
        Err(CallError::Exception(exception)) => println!("\n{}", exception.traceback),
        other => println!("{other:?}"),
    }
    executor.shutdown().await;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let python = std::env::var_os("FASTERAPI_PYTHON").unwrap_or_else(|| ".venv/bin/python3".into());
    let config = Config { workers: 2, python: python.into(), ..Config::default() };
    let executor = ProcessPoolExecutor::new(config)?;
    tokio::runtime::Builder::new_current_thread().build()?.block_on(run(executor))?;
    Ok(())
}
