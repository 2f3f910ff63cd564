//! Variables for the environment of the workers, out of a file.
//!
//! Invariant: what is set already stays as it is, so that a file is what a deployment overrides, and not the other way round.
//! Deliberately absent: this process's own environment, which is not changed.

use std::{env, path::Path};

use super::error::SystemError;

/// The variables that the file adds, in its order; of one that it names twice the first counts.
pub(super) fn read(path: &Path) -> Result<Vec<(String, String)>, SystemError> {
    let error = |error| SystemError::EnvFile { path: path.to_owned(), error };
    let mut found: Vec<(String, String)> = Vec::new();
    for variable in dotenvy::from_path_iter(path).map_err(error)? {
        let (name, value) = variable.map_err(error)?;
        if env::var_os(&name).is_none() && found.iter().all(|(earlier, _)| *earlier != name) {
            found.push((name, value));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file(name: &str, text: &str) -> std::path::PathBuf {
        let path = env::temp_dir().join(format!("fasterapi-{name}-{}", std::process::id()));
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn what_is_set_already_stays() {
        let text = "# comment\nexport PATH=mine\nFASTERAPI_TEST_A=\"x y\"\nFASTERAPI_TEST_B='1#2' # two\nFASTERAPI_TEST_A=z\n";
        let path = file("env", text);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [pair("FASTERAPI_TEST_A", "x y"), pair("FASTERAPI_TEST_B", "1#2")];
        assert_eq!(read(&path).unwrap(), expected);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = read(Path::new("/nowhere/.env")).unwrap_err().to_string();
        assert!(error.starts_with("--env-file /nowhere/.env: "), "{error}");
        let path = file("bad-env", "A=1\nno assignment\n");
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("no assignment"), "{error}");
        fs::remove_file(path).unwrap();
    }
}
