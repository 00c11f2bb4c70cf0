//! Which plugins are enabled: those of config.yaml, or those of a list beside the resources.

use std::sync::{Arc, Mutex, PoisonError};

use headgate_model::check::{Checker, CheckerFor};
use headgate_model::settings::{Settings, StoreSettings};
use headgate_model::{PluginList, plugin_list};
use headgate_store::{Precondition, Store, StoreError, WriteOptions};
use headgate_stream::plugin::{PluginDef, PluginFactory, Registry};

use crate::assemble;

/// The plugins of `stream_plugins` by descending priority; a name that this build does not have
/// is reported.
pub(crate) fn enabled(settings: &Settings, registry: &Registry) -> Vec<&'static PluginDef> {
    find(&settings.stream_plugins, registry, "stream_plugins")
}

fn find(names: &[String], registry: &Registry, place: &str) -> Vec<&'static PluginDef> {
    for name in names {
        if registry.find(name).is_none() {
            let known: Vec<_> = registry.all().iter().map(|def| def.meta.name).collect();
            tracing::warn!(
                plugin = %name,
                known = known.join(", "),
                "{place} names a plugin that does not exist"
            );
        }
    }
    let is_enabled = |def: &&&PluginDef| names.iter().any(|name| name == def.meta.name);
    registry.all().iter().filter(is_enabled).copied().collect()
}

/// The lists of config.yaml, as they are shared with other nodes.
pub(crate) fn own_list(settings: &Settings) -> PluginList {
    PluginList { http: settings.http_plugins.clone(), stream: settings.stream_plugins.clone() }
}

/// Brings the list of the store up to what this node enables, as the reference does at its start: if
/// there is one, and it names other plugins. Data planes follow it.
pub(crate) async fn share(store: &dyn Store, own: &PluginList) {
    let stored = match store.get(plugin_list::KEY).await {
        Ok(Some(stored)) => stored,
        Ok(None) => return,
        Err(error) => {
            return tracing::warn!(%error, "the list of plugins in the store cannot be compared");
        }
    };
    if PluginList::read(&stored.value).is_ok_and(|list| list.names_the_same_as(own)) {
        return;
    }
    let options = WriteOptions {
        precondition: Precondition::Modified(stored.modified),
        author: "plugins of config.yaml".to_owned(),
        ttl: None,
    };
    match store.put(plugin_list::KEY, own.to_value(), options).await {
        Ok(_) => tracing::info!("the list of plugins in the store is now that of config.yaml"),
        // Another node was quicker; what it wrote counts.
        Err(StoreError::Conflict { .. }) => {}
        Err(error) => tracing::warn!(%error, "the list of plugins in the store cannot be written"),
    }
}

/// What depends on the list of plugins.
pub(crate) struct Catalog {
    settings: Settings,
    registry: Registry,
    /// The plugins of config.yaml.
    enabled: Vec<&'static PluginDef>,
    /// The last checker made, and for which list.
    made: Mutex<(Option<PluginList>, Arc<Checker>)>,
}

impl Catalog {
    /// # Errors
    /// The keyring has an entry that is no key.
    pub(crate) fn new(settings: &Settings, registry: &Registry) -> anyhow::Result<Self> {
        let enabled = enabled(settings, registry);
        let checker = assemble::checker(settings, &enabled)?;
        let (settings, registry) = (settings.clone(), registry.clone());
        Ok(Self { settings, registry, enabled, made: Mutex::new((None, Arc::new(checker))) })
    }

    /// The plugins of config.yaml.
    pub(crate) fn enabled(&self) -> &[&'static PluginDef] {
        &self.enabled
    }

    /// Whether a list beside the resources is followed: without an Admin API, or when the resources
    /// come from a file or as a whole.
    pub(crate) fn follows(&self) -> bool {
        match self.settings.store {
            StoreSettings::Etcd(_) => self.settings.admin.is_none(),
            StoreSettings::File(_) | StoreSettings::Api => true,
            StoreSettings::Embedded(_) => false,
        }
    }

    /// What resources are checked with.
    pub(crate) fn checker(&self, list: Option<&PluginList>) -> Arc<Checker> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.0.as_ref() != list {
            let mut settings = self.settings.clone();
            if let Some(list) = list {
                settings.http_plugins.clone_from(&list.http);
                settings.stream_plugins.clone_from(&list.stream);
            }
            match assemble::checker(&settings, &self.definitions(list)) {
                Ok(checker) => *made = (list.cloned(), Arc::new(checker)),
                // The keyring was good a moment ago; then the checker before is still right about it.
                Err(error) => tracing::error!(%error, "the list of plugins cannot be used"),
            }
        }
        Arc::clone(&made.1)
    }

    pub(crate) fn checker_for(self: &Arc<Self>) -> CheckerFor {
        let catalog = Arc::clone(self);
        Arc::new(move |list| catalog.checker(list))
    }

    /// What builds plugins, when `before` has done that until now.
    pub(crate) fn factory(
        &self,
        list: Option<&PluginList>,
        before: &PluginFactory,
    ) -> PluginFactory {
        let http = list.map_or(&self.settings.http_plugins, |list| &list.http);
        before.enabling(&self.definitions(list), http.clone())
    }

    fn definitions(&self, list: Option<&PluginList>) -> Vec<&'static PluginDef> {
        match list {
            Some(list) => find(&list.stream, &self.registry, "the list plugins"),
            None => self.enabled.clone(),
        }
    }
}
