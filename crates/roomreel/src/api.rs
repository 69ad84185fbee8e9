//! The API's settings: where it listens and which tokens it takes; and `roomreel token`, which makes one.
//!
//! Owns reading the keys. Does not own the API or the check of tokens (`roomreel_coordinator::api`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use roomreel_backends::secret::Secret;
use roomreel_coordinator::api::auth::Verifier;
use roomreel_coordinator::api::{self, ApiState, AuthConfig, KeySource};
use roomreel_shared::id::{PeerId, TenantId};
use roomreel_shared::ports::Ports;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{duration, secret};
use crate::output;
use crate::settings::TenantArgs;

/// What a token has to name, and the shared secret of development.
#[derive(Debug, Clone, Args)]
pub struct TokenSettings {
    /// Issuer that tokens name.
    #[arg(long, value_name = "NAME", default_value = "roomreel")]
    jwt_issuer: String,
    /// Audience that tokens name.
    #[arg(long, value_name = "NAME", default_value = "roomreel")]
    jwt_audience: String,
    /// Secret of at least 32 bytes that tokens are signed with (HS256), for development; better in a file.
    #[arg(long, value_name = "SECRET", hide_default_value = true)]
    jwt_secret: Option<Secret>,
    /// File that holds the secret.
    #[arg(long, value_name = "FILE")]
    jwt_secret_file: Option<PathBuf>,
}

/// Where the API listens and which tokens it takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "API")]
pub struct ApiSettings {
    /// Address of the API.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    api_listen: SocketAddr,
    #[command(flatten)]
    token: TokenSettings,
    /// Ed25519 public key in PEM form that tokens are signed with (EdDSA).
    #[arg(long, value_name = "FILE")]
    jwt_eddsa_key_file: Option<PathBuf>,
    /// P-256 public key in PEM form that tokens are signed with (ES256).
    #[arg(long, value_name = "FILE")]
    jwt_es256_key_file: Option<PathBuf>,
    /// JSON Web Key Set of Ed25519 and P-256 public keys.
    #[arg(long, value_name = "FILE")]
    jwt_jwks_file: Option<PathBuf>,
    /// A token that is good for longer is refused.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    jwt_max_life: Duration,
}

impl ApiSettings {
    /// Reads the keys.
    ///
    /// # Errors
    /// If there is none, or one cannot be used.
    pub fn verifier(&self) -> anyhow::Result<Verifier> {
        let mut keys = Vec::new();
        if let Some(secret) = self.token.secret()? {
            keys.push(KeySource::Secret(secret.expose().as_bytes().to_vec()));
        }
        let read = |name, file: &PathBuf| std::fs::read(file).with_context(|| format!("{name} {}", file.display()));
        if let Some(file) = &self.jwt_eddsa_key_file {
            keys.push(KeySource::EdDsaPem(read("jwt_eddsa_key_file", file)?));
        }
        if let Some(file) = &self.jwt_es256_key_file {
            keys.push(KeySource::Es256Pem(read("jwt_es256_key_file", file)?));
        }
        if let Some(file) = &self.jwt_jwks_file {
            let set = read("jwt_jwks_file", file)?;
            keys.push(KeySource::Jwks(String::from_utf8(set).context("jwt_jwks_file is not text")?));
        }
        if keys.is_empty() {
            bail!(
                "the API has no key to check tokens with; set jwt_jwks_file, jwt_eddsa_key_file or jwt_es256_key_file, or for \
                 development jwt_secret_file (`openssl rand -hex 32` makes a secret)"
            );
        }
        self.verifier_of(keys)
    }

    /// Whether any key is configured.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        let files =
            [&self.jwt_eddsa_key_file, &self.jwt_es256_key_file, &self.jwt_jwks_file, &self.token.jwt_secret_file];
        self.token.jwt_secret.is_some() || files.iter().any(|file| file.is_some())
    }

    /// For a process of development without configured keys: takes tokens of a secret that nobody else has, and the one token.
    ///
    /// # Errors
    /// If another setting cannot be used.
    pub fn for_development(&self, tenant: &TenantId) -> anyhow::Result<(Verifier, String)> {
        let secret = Secret::new(format!("{:032x}", rand::random::<u128>()));
        let token = self.token.sign(&secret, tenant, "dev", None, self.jwt_max_life)?;
        Ok((self.verifier_of(vec![KeySource::Secret(secret.expose().as_bytes().to_vec())])?, token))
    }

    fn verifier_of(&self, keys: Vec<KeySource>) -> anyhow::Result<Verifier> {
        let config = AuthConfig {
            max_life: self.jwt_max_life,
            ..AuthConfig::new(&self.token.jwt_issuer, &self.token.jwt_audience, keys)
        };
        Ok(Verifier::new(config)?)
    }

    /// Serves the API until `leaving` is cancelled; the address it has got, and the task.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn serve(
        &self,
        verifier: Verifier,
        ports: &Ports,
        leaving: CancellationToken,
    ) -> anyhow::Result<(SocketAddr, JoinHandle<()>)> {
        let listener = TcpListener::bind(self.api_listen)
            .await
            .with_context(|| format!("api_listen: cannot listen on {}; choose a free address", self.api_listen))?;
        let address = listener.local_addr()?;
        let state = ApiState::new(ports.clone(), verifier);
        let task = tokio::spawn(async move {
            if let Err(error) = api::serve(listener, state, leaving).await {
                tracing::error!(%error, "the API ended");
            }
        });
        Ok((address, task))
    }
}

impl TokenSettings {
    fn secret(&self) -> anyhow::Result<Option<Secret>> {
        Ok(secret("jwt_secret", &self.jwt_secret, &self.jwt_secret_file)?)
    }

    fn sign(
        &self,
        secret: &Secret,
        tenant: &TenantId,
        subject: &str,
        peer: Option<&PeerId>,
        life: Duration,
    ) -> anyhow::Result<String> {
        let now =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the system's clock is before 1970")?;
        let mut claims = json!({
            "iss": self.jwt_issuer,
            "aud": self.jwt_audience,
            "sub": subject,
            "tenant": tenant,
            "scope": "recordings:read recordings:write",
            "iat": now.as_secs(),
            "exp": (now + life).as_secs(),
        });
        if let Some(peer) = peer {
            claims["peer"] = json!(peer);
        }
        let key = EncodingKey::from_secret(secret.expose().as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).context("sign the token")
    }
}

/// Arguments of `roomreel token`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  openssl rand -hex 32 > jwt-secret
  roomreel token --jwt-secret-file jwt-secret > api-token
  roomreel status --api-token-file api-token")]
pub struct TokenArgs {
    /// Whom the token names as its subject.
    #[arg(long, value_name = "NAME", default_value = "operator")]
    subject: String,
    /// Participant the token is for: its role in the room decides what it may. Without it, a service, which may do everything.
    #[arg(long, value_name = "PEER")]
    peer: Option<PeerId>,
    /// How long the token is good for.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    token_life: Duration,
    /// TOML file with settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    tenant: TenantArgs,
    #[command(flatten)]
    token: TokenSettings,
}

/// Makes a token and prints it.
///
/// # Errors
/// If there is no secret.
pub fn token(args: &TokenArgs) -> anyhow::Result<()> {
    let Some(secret) = args.token.secret()? else {
        bail!("there is no secret to sign with; give --jwt-secret-file");
    };
    let token = args.token.sign(&secret, &args.tenant.tenant, &args.subject, args.peer.as_ref(), args.token_life)?;
    output::print(token + "\n")?;
    Ok(())
}
