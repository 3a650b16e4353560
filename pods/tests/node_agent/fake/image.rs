//! The image service: every image is there once it was pulled.

use rrun_cri_api::v1 as cri;
use rrun_cri_api::v1::image_service_server::ImageService;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::Fake;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for Fake {
    async fn list_images(
        &self,
        _: Request<cri::ListImagesRequest>,
    ) -> Answer<cri::ListImagesResponse> {
        Ok(Response::new(cri::ListImagesResponse::default()))
    }

    type StreamImagesStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<cri::StreamImagesResponse, Status>> + Send>>;

    async fn stream_images(
        &self,
        _: Request<cri::StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        Err(Status::unimplemented(""))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Answer<cri::ImageStatusResponse> {
        let image = request.into_inner().image.unwrap_or_default().image;
        let there = self.world.lock().unwrap().images.contains(&image);
        let found = there.then(|| cri::Image {
            id: format!("sha256:{image}"),
            ..Default::default()
        });
        Ok(Response::new(cri::ImageStatusResponse {
            image: found,
            ..Default::default()
        }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Answer<cri::PullImageResponse> {
        let image = request.into_inner().image.unwrap_or_default().image;
        let mut world = self.world.lock().unwrap();
        world.calls.push(format!("pull {image}"));
        if let Some(why) = world.broken_images.get(&image) {
            return Err(Status::unknown(why.clone()));
        }
        world.images.push(image.clone());
        Ok(Response::new(cri::PullImageResponse {
            image_ref: format!("sha256:{image}"),
        }))
    }

    async fn remove_image(
        &self,
        _: Request<cri::RemoveImageRequest>,
    ) -> Answer<cri::RemoveImageResponse> {
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Answer<cri::ImageFsInfoResponse> {
        Ok(Response::new(cri::ImageFsInfoResponse::default()))
    }
}
