# The image of Dockerfile or Dockerfile.static as a job of Nomad, with a read-only root and no capabilities.
#   nomad job run web.nomad.hcl
#   nomad alloc exec ALLOCATION release ctl reload
job "web" {
  group "web" {
    count = 2

    # One replacement after the other, each once its check has passed for ten seconds.
    update {
      max_parallel     = 1
      health_check     = "checks"
      min_healthy_time = "10s"
      healthy_deadline = "2m"
      auto_revert      = true
    }

    network {
      port "http" { to = 8080 }
    }

    service {
      name     = "web"
      port     = "http"
      provider = "nomad"

      check {
        type     = "http"
        path     = "/"
        interval = "5s"
        timeout  = "5s"
      }
    }

    task "web" {
      driver = "docker"
      # Nobody sends new connections any more by then.
      shutdown_delay = "5s"
      # Longer than the stop deadline of the workers, 10 s.
      kill_signal  = "SIGTERM"
      kill_timeout = "20s"
      user         = "65534:65534"

      config {
        image           = "web:1"
        ports           = ["http"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]

        mount {
          type   = "tmpfs"
          target = "/run/web"
        }

        mount {
          type   = "tmpfs"
          target = "/tmp"
        }
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
