//! AWS's files: credentials, region and endpoint of a profile, as its own tools read `~/.aws/config` and
//! `~/.aws/credentials`.
//!
//! The environment comes first. What it lacks a profile may have: keys, a role that its own keys, another profile or the machine may
//! assume, a single sign-on, a token of a web identity, or a program that prints credentials. What ends is asked for again while the
//! remote is in use. Nothing of a credential is printed or written.

mod files;
mod kept;
mod program;
mod role;
mod service;
mod sign_on;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::RetryConfig;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key, AwsCredentialProvider};
use object_store::client::ClientConfigKey;

use self::files::{Section, sections};
use self::kept::kept;
use self::program::Program;
use self::role::Role;
use self::service::Service;
use self::sign_on::SignOn;
use super::Limits;
use super::http::Connector;

/// Where AWS's services are asked that no region is given for.
const REGION: &str = "us-east-1";
const NAME: &str = "default";
/// How long the credentials of a role may last.
const ROLE_SECONDS: std::ops::RangeInclusive<u32> = 900..=43_200;

/// Where the profiles are.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// The profile that was asked for; else it is `default`.
    pub profile: Option<String>,
    /// The file of settings.
    pub config: Option<PathBuf>,
    /// The file of keys.
    pub credentials: Option<PathBuf>,
    /// The folder of the tokens that a single sign-on leaves.
    pub tokens: Option<PathBuf>,
    /// Where single sign-on is asked instead of AWS's own portal.
    pub portal: Option<String>,
    /// Whether endpoints of the files are passed over.
    pub ignores_endpoints: bool,
}

/// What requests for credentials are made with.
pub(super) struct Means<'m> {
    pub(super) connector: &'m Connector,
    pub(super) limits: Limits,
    pub(super) retry: &'m RetryConfig,
}

impl Files {
    /// Adds what the environment lacks.
    pub(super) fn apply(
        &self,
        mut builder: AmazonS3Builder,
        means: &Means<'_>,
    ) -> Result<AmazonS3Builder, String> {
        let name = self.profile.as_deref().unwrap_or(NAME);
        let mut profiles = Profiles {
            files: self,
            settings: sections(self.config.as_deref())?,
            keys: sections(self.credentials.as_deref())?,
            asked: Section::new(),
            environment: builder.clone(),
            means,
        };
        match profiles.get(name) {
            Some(profile) => profiles.asked = profile,
            None if self.profile.is_some() => return Err(unknown(name)),
            None => {}
        }
        let profile = &profiles.asked;
        let is_unset = |builder: &AmazonS3Builder, keys: &[Key]| {
            keys.iter().all(|key| builder.get_config_value(key).is_none())
        };
        if let Some(region) = profile.get("region")
            && is_unset(&builder, &[Key::Region, Key::DefaultRegion])
        {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = profiles.endpoint("s3")
            && is_unset(&builder, &[Key::Endpoint, Key::S3Endpoint])
        {
            builder = builder.with_endpoint(endpoint);
        }
        let is_anonymous =
            builder.get_config_value(&Key::SkipSignature).is_some_and(|skips| skips == "true");
        let is_known = !is_unset(&builder, &[Key::AccessKeyId, Key::SecretAccessKey])
            || !is_unset(&builder, &[Key::WebIdentityTokenFile]);
        // Who asks for a role that the environment's keys may assume wants the role.
        let wants_role = self.profile.is_some()
            && profile.contains_key("role_arn")
            && profile.get("credential_source").is_some_and(|source| source == "Environment");
        if is_anonymous || (is_known && !wants_role) {
            return Ok(builder);
        }
        // Where a profile has none, those of the machine remain to be asked for.
        Ok(match profiles.provider(name, &mut Vec::new())? {
            Some(provider) => builder.with_credentials(provider),
            None => builder,
        })
    }
}

fn unknown(name: &str) -> String {
    format!("AWS's files have no profile `{}`", name.escape_debug())
}

/// The profiles of the files, and what the environment has.
struct Profiles<'p> {
    files: &'p Files,
    settings: BTreeMap<String, Section>,
    keys: BTreeMap<String, Section>,
    /// The one whose region and endpoints count.
    asked: Section,
    environment: AmazonS3Builder,
    means: &'p Means<'p>,
}

impl Profiles<'_> {
    /// Returns the settings of a profile.
    fn get(&self, name: &str) -> Option<Section> {
        let settings = match name {
            NAME => self.settings.get(name).or_else(|| self.settings.get("profile default")),
            name => self.settings.get(&format!("profile {name}")),
        };
        let keys = self.keys.get(name);
        if settings.is_none() && keys.is_none() {
            return None;
        }
        let mut profile = settings.cloned().unwrap_or_default();
        profile.extend(keys.cloned().unwrap_or_default());
        Some(profile)
    }

    /// Returns where a service is asked by the files.
    fn endpoint(&self, service: &str) -> Option<&String> {
        if self.files.ignores_endpoints {
            return None;
        }
        let services = self.asked.get("services");
        let services = services.and_then(|of| self.settings.get(&format!("services {of}")));
        let endpoint = services.and_then(|all| all.get(&format!("{service}.endpoint_url")));
        endpoint.or_else(|| self.asked.get("endpoint_url"))
    }

    /// Prepares for requests to a service: where the environment says, or the files, or where AWS has it in a region.
    fn service(
        &self,
        (name, host): (&str, &str),
        of_environment: Option<String>,
        region: &str,
    ) -> Result<Service, String> {
        let china = if region.starts_with("cn-") { ".cn" } else { "" };
        let endpoint = of_environment
            .or_else(|| self.environment.get_config_value(&Key::Endpoint))
            .or_else(|| self.endpoint(name).cloned())
            .unwrap_or_else(|| format!("https://{host}.{region}.amazonaws.com{china}"));
        let allows = self.environment.get_config_value(&Key::Client(ClientConfigKey::AllowHttp));
        let allows_http =
            super::is_here(&endpoint) || allows.is_some_and(|allows| allows == "true");
        Service::new(self.means.connector, endpoint, allows_http, self.means.limits)
    }

    /// Returns a builder with some of what the environment says.
    fn like_environment(&self, keys: &[Key]) -> AmazonS3Builder {
        let always = [Key::Region, Key::StsEndpoint, Key::MetadataEndpoint, Key::ImdsV1Fallback];
        always.iter().chain(keys).fold(AmazonS3Builder::new(), |builder, key| {
            match self.environment.get_config_value(key) {
                Some(value) => builder.with_config(*key, value),
                None => builder,
            }
        })
    }

    /// Returns what `object_store` itself would sign with.
    fn built(&self, builder: AmazonS3Builder) -> Result<AwsCredentialProvider, String> {
        let builder = builder.with_bucket_name("none").with_retry(self.means.retry.clone());
        let objects = builder.with_http_connector(self.means.connector.clone()).build();
        Ok(Arc::clone(objects.map_err(|error| error.to_string())?.credentials()))
    }

    /// Returns the credentials of a profile, which those of `above` are assumed with; `None` when it has none.
    fn provider(
        &self,
        name: &str,
        above: &mut Vec<String>,
    ) -> Result<Option<AwsCredentialProvider>, String> {
        let shown = name.escape_debug().to_string();
        let profile = match self.get(name) {
            Some(profile) => profile,
            None if above.is_empty() => return Ok(None),
            None => {
                let who = above.last().map_or("", String::as_str).escape_debug();
                return Err(format!("{}, which `{who}` assumes its role with", unknown(name)));
            }
        };
        let get = |key: &str| profile.get(key).filter(|value| !value.is_empty());
        // A profile may be its own source, with its keys.
        let is_again = above.iter().any(|known| known == name);
        if let Some(arn) = get("role_arn").filter(|_| !is_again) {
            above.push(name.to_owned());
            return self.assumed(&shown, &profile, arn, above).map(Some);
        }
        let has_sign_on = get("sso_session").is_some() || get("sso_start_url").is_some();
        if has_sign_on && !is_again {
            return self.signed_on(shown, &profile).map(|sign_on| Some(kept(sign_on)));
        }
        match (get("aws_access_key_id"), get("aws_secret_access_key")) {
            (Some(id), Some(secret)) => {
                let builder = AmazonS3Builder::new().with_access_key_id(id);
                let builder = builder.with_secret_access_key(secret);
                let builder = match get("aws_session_token") {
                    Some(token) => builder.with_token(token),
                    None => builder,
                };
                return self.built(builder).map(Some);
            }
            (None, None) => {}
            _ => return Err(format!("the profile `{shown}` has one half of a key")),
        }
        if is_again {
            return Err(format!("the profile `{shown}` is to assume its role with itself"));
        }
        if let Some(command) = get("credential_process") {
            let program = Program::new(shown.clone(), command, self.means.limits.answer * 3);
            let program = program.ok_or_else(|| {
                format!("`credential_process` of the profile `{shown}` can't be read")
            })?;
            return Ok(Some(kept(program)));
        }
        if get("login_session").is_some() {
            return Err(by_command_line(&shown, "has the login of a browser"));
        }
        Ok(None)
    }

    /// Returns the credentials of the role of a profile.
    fn assumed(
        &self,
        shown: &str,
        profile: &Section,
        arn: &str,
        above: &mut Vec<String>,
    ) -> Result<AwsCredentialProvider, String> {
        let get = |key: &str| profile.get(key).filter(|value| !value.is_empty());
        if let Some(token) = get("web_identity_token_file") {
            let builder = self.like_environment(&[]).with_config(Key::RoleArn, arn);
            let builder = builder.with_config(Key::WebIdentityTokenFile, token);
            let session = get("role_session_name").map_or(role::SESSION, String::as_str);
            let builder = builder.with_config(Key::RoleSessionName, session);
            let region = self.asked.get("region");
            return self.built(match region {
                Some(region) if builder.get_config_value(&Key::Region).is_none() => {
                    builder.with_region(region)
                }
                _ => builder,
            });
        }
        if get("mfa_serial").is_some() {
            return Err(by_command_line(shown, "asks for the code of a device"));
        }
        let source = match (get("source_profile"), get("credential_source").map(String::as_str)) {
            (Some(source), None) => {
                let provider = self.provider(source, above)?;
                provider.ok_or_else(|| {
                    format!(
                        "the profile `{}` has no credentials, which `{shown}` assumes its role with",
                        source.escape_debug()
                    )
                })?
            }
            (None, Some("Environment")) => {
                let keys = [Key::AccessKeyId, Key::SecretAccessKey, Key::Token];
                let builder = self.like_environment(&keys);
                if builder.get_config_value(&Key::AccessKeyId).is_none() {
                    return Err(format!(
                        "the role of the profile `{shown}` is assumed with the environment's keys, which has none"
                    ));
                }
                self.built(builder)?
            }
            (None, Some("Ec2InstanceMetadata")) => self.built(self.like_environment(&[]))?,
            (None, Some("EcsContainer")) => self.built(self.like_environment(&[
                Key::ContainerCredentialsRelativeUri,
                Key::ContainerCredentialsFullUri,
                Key::ContainerAuthorizationTokenFile,
            ]))?,
            _ => {
                return Err(format!(
                    "the profile `{shown}` has a role and needs either `source_profile` or `credential_source`, \
                     which is Environment, Ec2InstanceMetadata or EcsContainer"
                ));
            }
        };
        let seconds = get("duration_seconds").map(|text| {
            let seconds = text.parse::<u32>().ok().filter(|seconds| ROLE_SECONDS.contains(seconds));
            seconds.ok_or_else(|| {
                format!("`duration_seconds` of the profile `{shown}` is not from 900 to 43200")
            })
        });
        let region = self.environment.get_config_value(&Key::Region);
        let region = region.or_else(|| self.asked.get("region").cloned());
        let region = region.unwrap_or_else(|| REGION.to_owned());
        let of_environment = self.environment.get_config_value(&Key::StsEndpoint);
        Ok(kept(Role {
            profile: shown.to_owned(),
            arn: arn.to_owned(),
            session: get("role_session_name").cloned().unwrap_or_else(|| role::SESSION.to_owned()),
            external_id: get("external_id").cloned(),
            seconds: seconds.transpose()?,
            source,
            service: self.service(("sts", "sts"), of_environment, &region)?,
            region,
        }))
    }

    /// Returns who has signed on for a profile.
    fn signed_on(&self, shown: String, profile: &Section) -> Result<SignOn, String> {
        let session = profile.get("sso_session");
        let of_session = session.map(|name| {
            let found = self.settings.get(&format!("sso-session {name}"));
            found.ok_or_else(|| {
                let name = name.escape_debug();
                format!("AWS's files have no session `{name}`, which the profile `{shown}` names")
            })
        });
        let of_session = of_session.transpose()?;
        let get = |key: &str| {
            let own = profile.get(key).or_else(|| of_session?.get(key));
            let own = own.filter(|value| !value.is_empty()).cloned();
            own.ok_or_else(|| format!("the profile `{shown}` signs on and lacks `{key}`"))
        };
        let (account, role) = (get("sso_account_id")?, get("sso_role_name")?);
        let (region, start) = (get("sso_region")?, get("sso_start_url")?);
        let folder = self.files.tokens.as_deref();
        let folder = folder.ok_or("without a home directory there is no sign-on at AWS")?;
        let token = sign_on::token_file(folder, session.unwrap_or(&start));
        let portal = self.service(("sso", "portal.sso"), self.files.portal.clone(), &region)?;
        Ok(SignOn { profile: shown, token, account, role, portal })
    }
}

fn by_command_line(shown: &str, what: &str) -> String {
    format!(
        "the profile `{shown}` {what}, which rift does not do itself: AWS's command line does, by a profile with \
         `credential_process = aws configure export-credentials --profile {shown} --format process`"
    )
}
