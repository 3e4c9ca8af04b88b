//! The key that EFI programs are signed with, as several verbs take it.

use std::path::PathBuf;

use sos_builders::disk::sign::Signer;
use sos_engine::BuilderError;

/// A key for Secure Boot and its certificate.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct SignFlags {
    /// Sign EFI programs, for Secure Boot, with this RSA key; it is read now and never gets into the store
    #[arg(long, value_name = "PEM", requires = "secure_boot_cert")]
    secure_boot_key: Option<PathBuf>,
    /// The certificate of that key, which the firmware knows
    #[arg(long, value_name = "PEM", requires = "secure_boot_key")]
    secure_boot_cert: Option<PathBuf>,
}

impl SignFlags {
    /// Reads both; none where none is named.
    pub(super) fn signer(&self) -> Result<Option<Signer>, BuilderError> {
        match (&self.secure_boot_key, &self.secure_boot_cert) {
            (Some(key), Some(certificate)) => Signer::read(key, certificate).map(Some),
            _ => Ok(None),
        }
    }
}
